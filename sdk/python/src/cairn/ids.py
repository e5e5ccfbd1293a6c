"""The names of durable calls, and the ids of tasks.

A step id is the path of its scope and its name, joined by "/", each segment percent-encoding "/", "#" and "%"; 1 to
512 bytes. The task is the root scope. A name used again in one scope becomes name#2, name#3 in call order. The server
refuses what breaks this; here it is refused before anything runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator

from .errors import AmbiguousStep, Invalid

STEP_ID_BYTES_MAX = 512


def segment(name: str) -> str:
    """One segment of a step id."""
    if not isinstance(name, str) or not name:
        raise Invalid(f"a durable call needs a name: text that is not empty, not {name!r}")
    return name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")


class Scope:
    """Gives out the ids of one scope in call order, and refuses what would depend on chance."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._used: Counter[str] = Counter()
        self._open: set[str] = set()

    @contextlib.contextmanager
    def calling(self, name: str) -> Iterator[str]:
        """The id of a call that is unfinished for as long as the block runs."""
        step_id = self.begin(name)
        try:
            yield step_id
        finally:
            self.end(name)

    def begin(self, name: str) -> str:
        step_id = self._id(name, self._used[name] + 1)
        if name in self._open:
            where = f'scope "{self._path}"' if self._path else "this task"
            raise AmbiguousStep(f'"{name}" is called again in {where} before its first call has finished')
        self._used[name] += 1
        self._open.add(name)
        return step_id

    def end(self, name: str) -> None:
        self._open.discard(name)

    def take(self, name: str) -> str:
        """The id of something that is finished at once, such as a scope inside this one."""
        with self.calling(name) as step_id:
            return step_id

    def peek(self, name: str) -> str:
        """The id of the unfinished call of this name, or of the next one."""
        return self._id(name, self._used[name] + (name not in self._open))

    def _id(self, name: str, ordinal: int) -> str:
        return extend(self._path, name, ordinal)


def extend(path: str, name: str, ordinal: int = 1) -> str:
    """The step id of ``name`` inside the scope ``path``."""
    last = segment(name) + (f"#{ordinal}" if ordinal > 1 else "")
    step_id = f"{path}/{last}" if path else last
    try:
        size = len(step_id.encode())
    except UnicodeEncodeError:
        raise Invalid(f"the name {name!r} is text that has no UTF-8") from None
    if size > STEP_ID_BYTES_MAX:
        raise Invalid(f"a step id has {size} bytes, {STEP_ID_BYTES_MAX} are allowed: {step_id[:80]}...")
    return step_id


class TaskIds:
    """Makes the ids of tasks, UUIDv7: made by the caller, so that a spawn that is sent twice happens once. Those of one
    millisecond sort in the order in which they were made, and with them the tasks in their queue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._last_ms, self._count = -1, 0

    def next(self, now_ms: int) -> str:
        random = int.from_bytes(os.urandom(10), "big")
        with self._lock:
            # 26 bits behind the time; drawn from the lower half, so that there is room to count.
            self._count = self._count + 1 if now_ms == self._last_ms else random >> 55
            self._last_ms, count = now_ms, self._count
        number = (now_ms & (1 << 48) - 1) << 80 | (count >> 14 & 0xFFF) << 64 | (count & 0x3FFF) << 48
        return str(uuid.UUID(int=number | 0x7 << 76 | 0x2 << 62 | random & (1 << 48) - 1))
