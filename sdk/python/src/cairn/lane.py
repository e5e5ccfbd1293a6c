"""The operations of all tasks of a worker, on their way to the server.

One request is under way at a time; what comes meanwhile goes together in the next, and so shares its sync. The order of
a task's operations is kept. What got no answer is sent again, the same bytes: that is safe by the protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from . import wire
from .errors import Refused, is_transient
from .policy import Backoff
from .wire import Ack, Op


@dataclass
class _Sent:
    op: Op
    future: asyncio.Future[Ack]
    backoff: Backoff = field(default_factory=Backoff)


class Lane:
    def __init__(self, post: Callable[[Sequence[Op]], Awaitable[Sequence[Ack]]]) -> None:
        """``post`` sends one request, finds a session where it needs one, and raises what it is answered with."""
        self._post = post
        self._queue: deque[_Sent] = deque()
        self._awaited: set[asyncio.Future[Ack]] = set()
        self._pump: asyncio.Task[None] | None = None

    async def send(self, op: Op) -> Ack:
        """Raises what ``op`` is refused with."""
        sent = _Sent(op, asyncio.get_running_loop().create_future())
        self._awaited.add(sent.future)
        sent.future.add_done_callback(self._awaited.discard)
        self._push([sent])
        return await sent.future

    def close(self) -> None:
        """Sends no more; who waits for an answer is cancelled."""
        if self._pump is not None:
            self._pump.cancel()
        for future in list(self._awaited):
            future.cancel()

    def _push(self, sent: list[_Sent]) -> None:
        self._queue.extend(sent)
        if self._queue and (self._pump is None or self._pump.done()):
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # One turn of the loop, so that branches that come together go together.
        await asyncio.sleep(0)
        while self._queue:
            batch, size = [self._queue.popleft()], 0
            while self._queue and len(batch) < wire.OPS_MAX and size < wire.OPS_BYTES_MAX:
                batch.append(self._queue.popleft())
                size += len(batch[-1].op.body)
            await self._send(batch)

    async def _send(self, batch: list[_Sent]) -> None:
        backoff = Backoff()
        while True:
            try:
                acks = await self._post([sent.op for sent in batch])
            except Exception as error:
                if is_transient(error):
                    await asyncio.sleep(backoff.next_s())
                    continue
                await self._refused(batch, error)
            else:
                self._answered(batch, acks)
            return

    async def _refused(self, batch: list[_Sent], error: Exception) -> None:
        """The request as a whole: who is to blame finds out alone, and the others are not harmed."""
        if len(batch) == 1:
            _fail(batch[0], error)
        else:
            for sent in batch:
                await self._send([sent])

    def _answered(self, batch: list[_Sent], acks: Sequence[Ack]) -> None:
        refused: set[str] = set()
        for sent, ack in zip(batch, acks, strict=True):
            if ack.error is None:
                if not sent.future.done():
                    sent.future.set_result(ack)
            elif sent.op.task in refused:
                # Only because an earlier one was: it has a verdict of its own to get.
                self._queue.append(sent)
            else:
                refused.add(sent.op.task)
                if is_transient(ack.error):
                    asyncio.get_running_loop().call_later(sent.backoff.next_s(), self._push, [sent])
                else:
                    _fail(sent, ack.error)


def _fail(sent: _Sent, error: Exception) -> None:
    if not sent.future.done():
        # Each its own exception: a traceback belongs to who awaits it.
        own = Refused.of(error.kind, error.message, error.field) if isinstance(error, Refused) else error
        sent.future.set_exception(own)
