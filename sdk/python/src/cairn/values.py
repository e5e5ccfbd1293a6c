"""JSON in and out: one encoding, its limit checked before sending, and errors that say where it goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .errors import Invalid, TooLarge

VALUE_BYTES_MAX = 1 << 20


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


def decode(encoded: bytes) -> Any:
    return json.loads(encoded)


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
