"""What can go wrong, as types to catch.

Three families: what the server (or a check before sending) refuses, a server out of reach, and outcomes that were
recorded in a task and are raised again by every replay.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, ClassVar

_TRACEBACK_CHARS_MAX = 16_000


class CairnError(Exception):
    """The base of all."""


class Unreachable(CairnError):
    """No answer. The call may have been done or not; whatever the SDK repeats by itself is safe to repeat."""


class Refused(CairnError):
    """The server's answer is an error, or it would have been: limits and names are checked before sending."""

    kind: str = "unknown"

    def __init__(self, message: str, *, kind: str | None = None, field: str | None = None) -> None:
        super().__init__(message if field is None else f"{message} (field {field})")
        self.message = message
        self.field = field
        if kind is not None:
            self.kind = kind

    @staticmethod
    def of(kind: str, message: str, field: str | None = None) -> Refused:
        """The type of this kind; a kind that this SDK does not know stays readable as ``.kind``."""
        return _BY_KIND.get(kind, Refused)(message, kind=kind, field=field)


class Invalid(Refused):
    """The call makes no sense: change it."""

    kind = "invalid"


class Unauthorized(Refused):
    """No token, or not the right one."""

    kind = "unauthorized"


class NotFound(Refused):
    kind = "not_found"


class Conflict(Refused):
    """Something else stands there already: another kind of step under this id, other bytes, another state."""

    kind = "conflict"


class TooLarge(Refused):
    kind = "too_large"


class StaleFence(Refused):
    """The run of a task is no longer this worker's. Task code never sees it: its run unwinds."""

    kind = "stale_fence"


class Cancelled(Refused):
    """The task was cancelled. Task code never sees it: its run unwinds."""

    kind = "cancelled"


class Gone(Refused):
    kind = "gone"


class Busy(Refused):
    """A bound is reached: wait a little and try again."""

    kind = "busy"


class Full(Refused):
    """The server has no space left."""

    kind = "full"


class Closed(Refused):
    """The server is shutting down, or closed to writes."""

    kind = "closed"


class UnsupportedProtocol(Refused):
    kind = "unsupported_protocol"


class Corrupt(Refused):
    kind = "corrupt"


class Io(Refused):
    kind = "io"


_BY_KIND: dict[str, type[Refused]] = {cls.kind: cls for cls in Refused.__subclasses__()}

# Worth the same call again, later. "unknown" and "timeout" are answers without a verdict.
_TRANSIENT = frozenset({"busy", "closed", "full", "io", "unknown", "timeout"})


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed when it is sent again."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.kind in _TRANSIENT)


class AmbiguousStep(CairnError):
    """Two unfinished durable calls of one name in one scope: which is which would depend on chance.
    Give them names of their own, or scopes of their own (``ctx.map``, ``ctx.scope``)."""


class Fatal(CairnError):
    """Raise it in a step or a task to say that trying again cannot help."""


@dataclass(frozen=True)
class Failure:
    """How a step or a task failed, as it is recorded."""

    kind: str
    message: str
    detail: Any = None
    """A traceback; whatever JSON the code gave that failed elsewhere."""
    retryable: bool = True

    @staticmethod
    def of(error: BaseException) -> Failure:
        """Recorded outcomes stay what they are, so an attempt that ends with one is not tried again."""
        if isinstance(error, Recorded):
            return Failure(error.failure.kind, str(error), error.failure.detail, retryable=False)
        kind = "timed_out" if isinstance(error, TimeoutError) else type(error).__name__
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        final = isinstance(error, (Fatal, AmbiguousStep, Conflict))
        return Failure(kind, str(error), trace[-_TRACEBACK_CHARS_MAX:], retryable=not final)


class Recorded(CairnError):
    """An outcome on record: every replay raises it again at the same place."""

    default_kind: ClassVar[str] = "failed"

    def __init__(self, what: str, failure: Failure | None = None) -> None:
        self.failure = failure or Failure(self.default_kind, what, retryable=False)
        super().__init__(what if failure is None else f"{what}: {failure.kind}: {failure.message}")


class StepFailed(Recorded):
    """A step with a retry policy of its own has failed for good."""


class TaskFailed(Recorded):
    """The task whose result was asked for has failed."""


class TaskCancelled(Recorded):
    """The task whose result was asked for was cancelled."""

    default_kind = "cancelled"


class TimedOut(Recorded):
    """A wait reached its timeout before what it waited for."""

    default_kind = "timed_out"
