"""One hand-out of a task: what is recorded, what is under way, and how it lets go.

Invariants:

1. An id that is recorded is never run again and never sent again.
2. A run suspends only when nothing durable is under way in it and no branch has had anything to do for a few turns of
   the loop; then all its open waits go in one operation, and the first that ends wakes the task.
3. What is held back goes, in its order, before whatever the run sends next, in the same request.
4. Once ``ended`` is set it stays, and every later durable call raises ``Unwind``, whatever task code has caught. The
   fence is dead by then, or is about to be.

All of it lives on the worker's event loop; there are no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Protocol

from . import wire
from .errors import Conflict, Invalid
from .ids import Scope
from .policy import Span, span_ms
from .values import Json
from .wire import Ack, Op, Step, StepKind, Wait, Work

# How many turns of the event loop without a durable call make a run quiet: enough for what a finished wait sets off,
# such as gather, asyncio.wait and the cancelling of a loser.
QUIET_TURNS = 10

# What is held back at most: of values so many bytes in so many operations, so that a request has room for them all.
HELD_BYTES_MAX = 1 << 20
HELD_MAX = 16

# Set while the body of a step runs: what is recorded as one value cannot have durable calls inside.
in_step: contextvars.ContextVar[str | None] = contextvars.ContextVar("cairn_in_step", default=None)


class Unwind(BaseException):
    """Takes a task that has been suspended, lost or cancelled off the stack. Not for catching: it comes again."""


class Host(Protocol):
    """What a run asks of its worker."""

    executor: Executor
    """Where plain functions run."""

    async def send(self, ops: Sequence[Op]) -> Ack:
        """Does ``ops`` in one request, however long the server is away, and returns the answer to the last; raises
        what the first refused one is refused with. They are on their way even if the caller is cancelled."""

    def now_ms(self) -> int:
        """Wall time, as the server sees it."""

    def note(self, work: Work, step: str | None) -> None:
        """The step that the next heartbeats name, or none."""

    def progress(self, work: Work, progress: Json | None) -> None:
        """Has the heartbeat sent now, and this with it and the later ones."""


class Run:
    def __init__(self, host: Host, work: Work, recorded: Iterable[Step]) -> None:
        self.host = host
        self.work = work
        self.root = Scope()
        self.recorded = {step.key: step for step in recorded}
        self.ended: str | None = None
        self.over = asyncio.Event()
        """Set together with ``ended``."""
        self._calls = 0
        self._under_way = 0
        self._waits: dict[str, tuple[Wait, asyncio.Future[Step]]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._suspending = False
        self._held: list[Op] = []
        self._held_bytes = 0
        self._open_steps: dict[str, None] = {}  # in the order in which they began

    def end(self, why: str) -> None:
        """From here on nothing that the task does counts."""
        if self.ended is None:
            self.ended = why
            self.over.set()
            for _, future in self._waits.values():
                if not future.done():
                    future.set_exception(Unwind(why))

    def check(self) -> None:
        if self.ended is not None:
            raise Unwind(self.ended)

    async def enter(self) -> None:
        """Every durable call begins with this."""
        if step := in_step.get():
            raise Invalid(f'a durable call inside the step "{step}": what a step does is recorded as one value')
        self._calls += 1
        await self.settled()

    async def settled(self) -> None:
        """Returns when no suspension is on its way, and the run goes on."""
        while self._suspending and self._settling:
            await asyncio.wait({self._settling})
        self.check()

    def recall(self, key: str, kind: StepKind) -> Step | None:
        """What is recorded under ``key``."""
        found = self.recorded.get(key)
        if found is not None and found.kind in wire.KINDS and found.kind != kind:
            raise Conflict(f'"{key}" is recorded as {found.kind} and called as {kind}: has the task changed?')
        return found

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The run does not suspend while the block runs."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._calls += 1
            self._settle()

    def begin_step(self, key: str) -> None:
        """Its body runs from here on."""
        self._open_steps[key] = None
        self.host.note(self.work, key)

    def end_step(self, key: str) -> None:
        self._open_steps.pop(key, None)
        self.host.note(self.work, next(reversed(self._open_steps), None))

    def after_ms(self, span: Span | None, what: str) -> int | None:
        """The moment after ``span``."""
        return None if span is None else self.host.now_ms() + span_ms(span, what)

    def is_waiting(self, key: str) -> bool:
        return key in self._waits

    async def send(self, op: Op) -> Ack:
        """Sends ``op``, and before it what was held back. If that is refused, so is ``op``, and it is held no more."""
        held, self._held, self._held_bytes = self._held, [], 0
        return await self.host.send([*held, op])

    @property
    def holds_back(self) -> bool:
        return bool(self._held)

    async def hold_back(self, op: Op, value_bytes: int) -> None:
        """Leaves ``op`` to the next call of ``send``. What there is no room for is recorded at once."""
        self.check()
        if len(self._held) >= HELD_MAX or self._held_bytes + value_bytes > HELD_BYTES_MAX:
            await self.record(op)
        else:
            self._held.append(op)
            self._held_bytes += value_bytes

    async def record(self, op: Op) -> Ack:
        """Sends ``op``. When this returns it is durable."""
        with self.working():
            try:
                ack = await self.send(op)
            except Exception as error:
                if wire.run_is_over(error):
                    self.end(f"lost: {error}")
                self.check()
                raise
            self.check()
            return ack

    async def wait(self, kind: StepKind, wait: Wait) -> Step:
        """How ``wait`` ends. Unless it is recorded the task is suspended, and this does not return."""
        if found := self.recall(wait.key, kind):
            return found
        self.check()
        future: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
        self._waits[wait.key] = (wait, future)
        self._settle()
        try:
            return await future
        finally:
            self._waits.pop(wait.key, None)

    def _settle(self) -> None:
        if self._waits and self._settling is None and self.ended is None:
            self._settling = asyncio.create_task(self._suspend_when_quiet())

    async def _suspend_when_quiet(self) -> None:
        try:
            quiet = 0
            while quiet < QUIET_TURNS:
                calls = self._calls
                await asyncio.sleep(0)
                quiet = quiet + 1 if calls == self._calls else 0
                if self._under_way or not self._waits or self.ended is not None:
                    return  # whoever is under way settles again
            self._suspending = True
            await self._suspend()
        finally:
            self._suspending = False
            self._settling = None
            if not self._under_way:
                self._settle()

    async def _suspend(self) -> None:
        try:
            ack = await self.send(wire.op_suspend(self.work, [wait for wait, _ in self._waits.values()]))
        except Exception as error:
            if wire.run_is_over(error):
                self.end(f"lost: {error}")
            for _, future in self._waits.values():
                if not future.done():
                    future.set_exception(error)
            return
        if not ack.resumed:
            self.end("suspended")
        for step in ack.resumed:
            self.recorded[step.key] = step
            _, waiting = self._waits.pop(step.key, (None, None))
            if waiting is not None and not waiting.done():
                waiting.set_result(step)
