"""JSON in and out: one encoding, its limit checked before sending, and errors that say where it goes wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from .errors import Invalid, TooLarge

VALUE_BYTES_MAX = 1 << 20

_DEPTH_MAX = 500  # where decode may be without running out of stack, whoever calls it
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


class Json(bytes):
    """A value already encoded. A request that is sent again carries the same bytes."""


def encode(value: Any, what: str, bytes_max: int = VALUE_BYTES_MAX) -> Json:
    """``value`` as JSON.

    Raises Invalid if it is not JSON, and TooLarge; both name ``what`` and, inside it, the place.
    """
    try:
        encoded = _dump(value)
    except RecursionError:
        raise Invalid(f"{what} is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise Invalid(_blame(value, what) or f"{what}: {error}") from None
    if len(encoded) > bytes_max:
        raise TooLarge(f"{what} has {len(encoded):,} bytes as JSON; the limit is {bytes_max:,}")
    return encoded


class Unreadable:
    """Stands in a value for what other languages write and Python does not read: what is nested more than 500 deep, and
    whole numbers of more digits than ``sys.get_int_max_str_digits()``, 4,300."""


def decode(encoded: bytes) -> Any:
    """Raises ValueError if it is not JSON."""
    try:
        return json.loads(encoded)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):
        # One such value must not cost the others that came with it, nor the worker.
        return json.loads(_cut(encoded), parse_int=_int, parse_constant=lambda _: Unreadable())


def _cut(encoded: bytes) -> bytes:
    """With NaN, which JSON does not have, for what is nested too deeply."""
    kept, copied, depth = [], 0, 0
    for token in _STRING_OR_BRACKET.finditer(encoded):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == _DEPTH_MAX:
                kept += [encoded[copied : token.start()], b"NaN"]
        elif token[0] in (b"]", b"}"):
            if depth == _DEPTH_MAX:
                copied = token.end()
            depth -= 1
    return b"".join([*kept, encoded[copied:]])


def _int(digits: str) -> int | Unreadable:
    try:
        return int(digits)
    except ValueError:
        return Unreadable()


def join(fields: Mapping[str, Any]) -> Json:
    """A JSON object whose values may be Json already; fields that are None are left out."""
    members = (_dump(name) + b":" + _member(value) for name, value in fields.items() if value is not None)
    return Json(b"{" + b",".join(members) + b"}")


def join_list(items: list[Json]) -> Json:
    return Json(b"[" + b",".join(items) + b"]")


def _member(value: Any) -> bytes:
    return value if isinstance(value, Json) else _dump(value)


def _dump(value: Any) -> Json:
    return Json(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def _blame(value: Any, path: str, depth: int = 0) -> str | None:
    """The first place in ``value`` that is not JSON."""
    inside: list[tuple[str, Any]] = []
    if depth > 100:
        return None  # it contains itself, and what json says about it is enough
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int, float, type(None))):
                return f"{path} has the key {key!r}, which is not a string"
        inside = [(f"{path}.{key}", each) for key, each in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [(f"{path}[{index}]", each) for index, each in enumerate(value)]
    elif isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}, which JSON does not have"
    elif isinstance(value, str):
        return f"{path} is text that has no UTF-8" if any("\ud800" <= c <= "\udfff" for c in value) else None
    elif value is not None and not isinstance(value, int):
        return f"{path} is of type {type(value).__name__}, which JSON does not have"
    return next((found for name, each in inside if (found := _blame(each, name, depth + 1))), None)
