"""Cairn: durable execution. An async task is cut into steps; a finished step survives every crash.

Where to look: ``app.py`` starts tasks and asks for results, ``context.py`` is what a task holds, ``run.py`` how a task
replays and suspends, ``worker.py`` the loop around it with its lanes ``lane.py`` and ``pulse.py``, ``wire.py`` the
protocol, ``ids.py``, ``values.py``, ``policy.py`` and ``errors.py`` the words that all of them use.
"""

from .app import App, Handle, SpawnOptions, Task, TestClock
from .context import Child, Context, StepHandle
from .errors import (
    AmbiguousStep,
    Busy,
    CairnError,
    Cancelled,
    Closed,
    Conflict,
    Corrupt,
    Failure,
    Fatal,
    Full,
    Gone,
    Invalid,
    Io,
    NotFound,
    Recorded,
    Refused,
    StaleFence,
    StepFailed,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
    UnsupportedProtocol,
)
from .policy import Cancel, Retry
from .worker import Worker

__all__ = [
    "AmbiguousStep",
    "App",
    "Busy",
    "CairnError",
    "Cancel",
    "Cancelled",
    "Child",
    "Closed",
    "Conflict",
    "Context",
    "Corrupt",
    "Failure",
    "Fatal",
    "Full",
    "Gone",
    "Handle",
    "Invalid",
    "Io",
    "NotFound",
    "Recorded",
    "Refused",
    "Retry",
    "SpawnOptions",
    "StaleFence",
    "StepFailed",
    "StepHandle",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TestClock",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
    "UnsupportedProtocol",
    "Worker",
]
