"""Spans and moments of time, and the policies made of them.

The SDK takes seconds (or timedelta) and moments (aware datetime, or seconds since 1970); the wire has integer
milliseconds. What is not whole is rounded up, because a timer means "not before".
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from .errors import Invalid

Span = float | timedelta
Moment = float | datetime

DELAY_MS_MAX = 86_400_000
MAX_ATTEMPTS = 5


def monotonic_ms() -> int:
    """This machine's clock that nobody sets."""
    return time.monotonic_ns() // 1_000_000


def span_ms(span: Span, what: str) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds < 0:
        raise Invalid(f"{what} must be a number of seconds from 0 on, or a timedelta, not {span!r}")
    return math.ceil(round(seconds * 1000, 6))


def moment_ms(moment: Moment, what: str) -> int:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise Invalid(f"{what} has no time zone: {moment!r}")
        moment = moment.timestamp()
    if not isinstance(moment, (int, float)) or not math.isfinite(moment):
        raise Invalid(f"{what} must be an aware datetime or seconds since 1970, not {moment!r}")
    return math.ceil(round(moment * 1000, 3))


@dataclass(frozen=True)
class Retry:
    """How long to wait after a failed attempt; how often is ``max_attempts``.

    For a task the server keeps it, for a step the worker. Delays end at one day. ``Retry()`` is what the server does
    with a task of which nothing is said: from one second to five minutes, doubling, a fifth of it left to chance.
    """

    kind: Literal["none", "fixed", "exponential"] = "exponential"
    base: Span = 1.0
    factor: float = 2.0
    max: Span = 300.0
    """Where an exponential delay stops growing."""
    jitter: float = 0.2
    """The part of a delay that is left to chance, 0 to 1; it only shortens."""

    def __post_init__(self) -> None:
        if self.kind not in ("none", "fixed", "exponential"):
            raise Invalid(f"a retry is none, fixed or exponential, not {self.kind!r}")
        span_ms(self.base, "base")
        span_ms(self.max, "max")
        if not (math.isfinite(self.factor) and self.factor >= 1) or not 0 <= self.jitter <= 1:
            raise Invalid(f"factor must be at least 1 and jitter from 0 to 1, not {self.factor} and {self.jitter}")

    @staticmethod
    def none() -> Retry:
        """Again at once."""
        return Retry("none", base=0.0, jitter=0.0)

    @staticmethod
    def fixed(base: Span, *, jitter: float = 0.0) -> Retry:
        return Retry("fixed", base=base, max=DELAY_MS_MAX / 1000, jitter=jitter)

    @staticmethod
    def exponential(
        base: Span = 1.0, *, factor: float = 2.0, max: Span = DELAY_MS_MAX / 1000, jitter: float = 0.0
    ) -> Retry:
        """base, base * factor, base * factor squared and so on, up to max."""
        return Retry("exponential", base, factor, max, jitter)

    def delay_ms(self, failed: int, chance: Callable[[], float] = random.random) -> int:
        """The delay after the attempt number ``failed`` (from 1)."""
        if self.kind == "none":
            return 0
        delay, limit = float(span_ms(self.base, "base")), DELAY_MS_MAX
        if self.kind == "exponential":
            limit = min(limit, span_ms(self.max, "max"))
        if self.kind == "exponential" and delay > 0:
            # In logarithms, because the power itself overflows.
            exponent = math.log(delay) + (failed - 1) * math.log(self.factor)
            delay = limit if exponent > math.log(max(limit, 1)) else delay * self.factor ** (failed - 1)
        delay = min(delay, limit)
        return math.ceil(delay - delay * self.jitter * chance())


@dataclass(frozen=True)
class Cancel:
    """When the server cancels a task by itself: not started in time, or not ended in time after its first start."""

    max_delay: Span | None = None
    max_duration: Span | None = None


class Backoff:
    """Growing pauses between calls to a server that does not answer, half of each by chance."""

    def __init__(self, first_s: float = 0.1, max_s: float = 5.0) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._next_s = first_s

    def next_s(self) -> float:
        pause, self._next_s = self._next_s, min(self._next_s * 2, self._max_s)
        return pause * (0.5 + random.random() / 2)

    def reset(self) -> None:
        self._next_s = self._first_s
