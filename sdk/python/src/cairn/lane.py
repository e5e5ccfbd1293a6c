"""The operations of all tasks of a worker, on their way to the server.

One request is under way at a time; what comes meanwhile goes together in the next, and so shares its sync. The order of
a task's operations is kept. What is given together is a unit: it goes in one request and has one answer, that of its
last operation or the first refusal. What got no answer is sent again, the same bytes: that is safe by the protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from . import wire
from .errors import Refused, is_transient
from .policy import Backoff
from .wire import Ack, Op


@dataclass
class _Unit:
    ops: Sequence[Op]
    """Of one task."""
    future: asyncio.Future[Ack]
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def task(self) -> str:
        return self.ops[0].task


class Lane:
    def __init__(self, post: Callable[[Sequence[Op]], Awaitable[Sequence[Ack]]]) -> None:
        """``post`` sends one request, finds a session where it needs one, and raises what it is answered with."""
        self._post = post
        self._queue: deque[_Unit] = deque()
        self._later: dict[str, list[_Unit]] = {}
        """By task, what waits for the pause of the first of it."""
        self._awaited: set[asyncio.Future[Ack]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, ops: Sequence[Op]) -> Ack:
        """The answer to the last of ``ops``, which are of one task; raises what the first refused one is refused with.
        If the caller is cancelled they are sent all the same."""
        unit = _Unit(ops, asyncio.get_running_loop().create_future())
        self._awaited.add(unit.future)
        unit.future.add_done_callback(self._awaited.discard)
        if self._closed:
            unit.future.cancel()
        self._push([unit])
        return await unit.future

    def close(self) -> None:
        """Sends no more; who waits for an answer is cancelled."""
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
        for future in list(self._awaited):
            future.cancel()

    def _push(self, units: list[_Unit]) -> None:
        self._queue.extend(units)
        if self._queue and not self._closed and (self._pump is None or self._pump.done()):
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # One turn of the loop, so that branches that come together go together.
        await asyncio.sleep(0)
        while self._queue:
            if batch := self._next_batch():
                await self._send(batch)

    def _next_batch(self) -> list[_Unit]:
        batch: list[_Unit] = []
        count = size = 0
        while self._queue:
            unit = self._queue[0]
            count, size = count + len(unit.ops), size + sum(len(op.body) for op in unit.ops)
            if batch and (count > wire.OPS_MAX or size > wire.OPS_BYTES_MAX):
                break
            self._queue.popleft()
            if not self._waits(unit):
                batch.append(unit)
        return batch

    def _waits(self, unit: _Unit) -> bool:
        """Whether an earlier one of its task is yet to be sent again; then it goes behind that."""
        earlier = self._later.get(unit.task)
        if earlier is not None:
            earlier.append(unit)
        return earlier is not None

    async def _send(self, batch: list[_Unit]) -> None:
        backoff = Backoff()
        while True:
            try:
                acks = await self._post([op for unit in batch for op in unit.ops])
            except Exception as error:
                if is_transient(error):
                    await asyncio.sleep(backoff.next_s())
                    continue
                await self._refused(batch, error)
            else:
                self._answered(batch, acks)
            return

    async def _refused(self, batch: list[_Unit], error: Exception) -> None:
        """The request as a whole: who is to blame finds out alone, and the others are not harmed."""
        if len(batch) == 1:
            _fail(batch[0], error)
        else:
            for unit in batch:
                if not self._waits(unit):
                    await self._send([unit])

    def _answered(self, batch: list[_Unit], acks: Sequence[Ack]) -> None:
        each, again, refused = iter(acks), list[_Unit](), set[str]()
        for unit in batch:
            own = list(islice(each, len(unit.ops)))
            error = next((ack.error for ack in own if ack.error is not None), None)
            if error is None:
                if not unit.future.done():
                    unit.future.set_result(own[-1])
            elif unit.task in refused:
                # Only because an earlier one was: it has a verdict of its own to get.
                again.append(unit)
            else:
                refused.add(unit.task)
                if is_transient(error):
                    self._later[unit.task] = [unit]
                    asyncio.get_running_loop().call_later(unit.backoff.next_s(), self._now, unit.task)
                else:
                    _fail(unit, error)
        self._queue.extendleft(reversed(again))

    def _now(self, task: str) -> None:
        self._push(self._later.pop(task))


def _fail(unit: _Unit, error: Exception) -> None:
    if not unit.future.done():
        # Each its own exception: a traceback belongs to who awaits it.
        own = Refused.of(error.kind, error.message, error.field) if isinstance(error, Refused) else error
        unit.future.set_exception(own)
