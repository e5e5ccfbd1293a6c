"""Cairn: durable execution. An async task is cut into steps; a finished step survives every crash.

Where to look: ``app.py`` starts tasks and asks for results, ``context.py`` is what a task holds, ``run.py`` how a task
replays and suspends, ``worker.py`` the loop around it with its lanes ``lane.py`` and ``pulse.py``, ``wire.py`` the
protocol, ``ids.py``, ``values.py``, ``policy.py`` and ``errors.py`` the words that all of them use.
"""

from . import errors
from .app import App, Handle, Task, TestClock
from .context import Child, Context, StepHandle
from .errors import (
    AmbiguousStep,
    Busy,
    CairnError,
    Conflict,
    Failure,
    Fatal,
    Invalid,
    NotFound,
    Recorded,
    Refused,
    StepFailed,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    TooLarge,
    Unreachable,
)
from .policy import Cancel, Retry
from .wire import SpawnOptions
from .worker import Worker

# fmt: off
__all__ = [
    "AmbiguousStep", "App", "Busy", "CairnError", "Cancel", "Child", "Conflict", "Context", "Failure", "Fatal",
    "Handle", "Invalid", "NotFound", "Recorded", "Refused", "Retry", "SpawnOptions", "StepFailed", "StepHandle", "Task",
    "TaskCancelled", "TaskFailed", "TestClock", "TimedOut", "TooLarge", "Unreachable", "Worker", "errors",
]
