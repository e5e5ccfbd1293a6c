"""JSON in and out: one encoding, its limits checked before sending, and errors that say where it goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from .errors import Invalid, TooLarge

VALUE_BYTES_MAX = 1 << 20
DEPTH_MAX = 100

_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _LEVELS.keys())


class Json(bytes):
    """A value already encoded. A request that is sent again carries the same bytes."""


def encode(value: Any, what: str, bytes_max: int = VALUE_BYTES_MAX) -> Json:
    """``value`` as JSON.

    Raises Invalid if it is not JSON, with the place inside it, or if it is nested more than 100 levels deep; and
    TooLarge. All name ``what``.
    """
    too_deep = f"{what} is nested deeper than {DEPTH_MAX} levels"
    try:
        encoded = _dump(value)
    except RecursionError:
        raise Invalid(too_deep) from None
    except (TypeError, ValueError) as error:
        raise Invalid(_blame(value, what) or f"{what}: {error}") from None
    if len(encoded) > bytes_max:
        raise TooLarge(f"{what} has {len(encoded):,} bytes as JSON; the limit is {bytes_max:,}")
    if _depth(encoded) > DEPTH_MAX:
        raise Invalid(too_deep)
    return encoded


class Unreadable:
    """Stands in a value for whole numbers of more digits than ``sys.get_int_max_str_digits()``, 4,300."""


def decode(encoded: bytes) -> Any:
    """Raises ValueError if it is not JSON."""
    try:
        return json.loads(encoded)
    except ValueError:
        # One such number must not cost the other values that came with it, nor the worker.
        return json.loads(encoded, parse_int=_int)


def _int(digits: str) -> int | Unreadable:
    try:
        return int(digits)
    except ValueError:
        return Unreadable()


def _depth(encoded: bytes) -> int:
    """How deep arrays and objects are nested in it."""
    # Without escaped backslashes and quotes every second part between quotes is text.
    parts = encoded.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    brackets = b"".join(parts[::2]).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0)


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
    if depth > DEPTH_MAX:
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
