"""A worker: claims tasks of the names it knows, runs them, and lets go of them.

Invariants:

1. At most ``slots`` tasks run, counting those that were suspended or lost and have not left their code yet. What is
   handed out beyond that waits here, held and beaten for.
2. A task is held, that is named in heartbeats, from its hand-out to the end of its fence: until the last word about it
   has been acknowledged, or the server has said that it is over.
3. What a task does, its exceptions and its exit calls included, ends that task only.

Three lanes to the server: a poll that is parked while slots are free, the operations of all tasks (``lane.py``), whose
answers may hand out the next task, and the heartbeat (``pulse.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from . import wire
from .app import App
from .context import Context
from .errors import Corrupt, Failure, Invalid, Refused, is_transient
from .lane import Lane
from .policy import Backoff, Span, span_ms
from .pulse import Pulse
from .run import Run, Unwind
from .values import Json, encode
from .wire import Ack, Op, Session, Signal, Transport, Work

SDK = "python/0.1.0"
_UNWIND_S = 1.0  # for the clean-up of a task that was suspended
_RECANCEL_S = 5.0
_LET_GO_DELAY_MS = 15_000  # of what cannot be run here, so that another worker may take it
_END_S = 5.0
_THREADS_MIN = 32

log = logging.getLogger("cairn")


class Worker:
    def __init__(self, app: App, slots: int, queues: Sequence[str], name: str | None, drain: Span) -> None:
        if slots < 1:
            raise Invalid(f"a worker has at least one slot, not {slots}")
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._app = app
        self._slots = slots
        self._queues = queues
        self._drain_s = span_ms(drain, "drain") / 1000
        self._tasks = dict(app.tasks)
        self.executor: Executor = ThreadPoolExecutor(max(slots, _THREADS_MIN), "cairn-step")
        self._lane = Lane(self._post)
        self._stopping, self._enough = asyncio.Event(), asyncio.Event()
        self._session: Session | None = None
        self._attached, self._free = asyncio.Event(), asyncio.Event()
        self._handed_out: deque[Work] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._runs: dict[str, Run] = {}  # by task, while the fence lives
        self._background: asyncio.Task[None] | None = None

    # -- Running

    async def run(self) -> None:
        """Works until ``stop()``, SIGTERM or SIGINT; then lets its tasks go on for the time of ``drain`` and gives
        back what is left, at no cost to it. A second signal gives back at once. Raises Unreachable if no server answers
        for ten seconds from the start; later outages are waited out."""
        with self._os_signals():
            await self._work()

    async def __aenter__(self) -> Worker:
        """Works in the background, from when the server has answered; leaving drains. Signals are left alone."""
        self._background = asyncio.create_task(self._work())
        attaching = asyncio.create_task(self._attached.wait())
        try:
            await asyncio.wait({self._background, attaching}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # then nobody leaves what was not entered
            self._background.cancel()
            await asyncio.wait({self._background})
            raise
        finally:
            attaching.cancel()
        if self._background.done():
            self._background.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._background is not None:
            await self._background

    def stop(self) -> None:
        """Begins to drain; called again, ends the draining."""
        (self._enough if self._stopping.is_set() else self._stopping).set()

    async def _work(self) -> None:
        self._context = contextvars.copy_context()
        self._transport = Transport(self._app._endpoint)
        names = {task.name: task.version for task in self._tasks.values()}
        hello = functools.partial(wire.hello, self.name, SDK, names, self._queues, self._slots)
        self._pulse = Pulse(self._app._endpoint, hello, self._on_session, self._on_signals)
        self._pulse.start()
        stopping, polling = asyncio.create_task(self._stopping.wait()), asyncio.create_task(self._poll())
        until: list[asyncio.Future[Any]] = [stopping, polling, self._pulse.over]
        with self._quiet_loop():
            try:
                await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
                for ended in until:
                    if ended.done():
                        ended.result()
                polling.cancel()
                await self._drain()
            finally:
                stopping.cancel()
                polling.cancel()
                await self._end()

    async def _drain(self) -> None:
        for work in self._handed_out:
            self._give_back(work)
        self._handed_out.clear()
        enough = asyncio.create_task(self._enough.wait())
        deadline = time.monotonic() + self._drain_s
        try:
            while self._running and not enough.done() and (left_s := deadline - time.monotonic()) > 0:
                await asyncio.wait({*self._running, enough}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enough.cancel()

    async def _end(self) -> None:
        for run in self._runs.values():
            run.end("the worker has stopped")
        if told := [self._give_back(run.work) for run in self._runs.values() if run.holds_back]:
            await asyncio.wait(told, timeout=_END_S)
        self._pulse.stop()  # and with it goes what is still held
        await asyncio.wait({self._pulse.over, *self._running}, timeout=_END_S)
        self._lane.close()
        if self._running:  # what could not be told
            await asyncio.wait(self._running, timeout=_UNWIND_S)
        self.executor.shutdown(wait=False, cancel_futures=True)
        await self._transport.close()

    @contextlib.contextmanager
    def _os_signals(self) -> Iterator[None]:
        loop, handled = asyncio.get_running_loop(), []
        for each in (signal.SIGTERM, signal.SIGINT):
            # Not on the main thread, or not on this platform: then the program stops the worker itself.
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(each, self.stop)
                handled.append(each)
        try:
            yield
        finally:
            for each in handled:
                loop.remove_signal_handler(each)

    @contextlib.contextmanager
    def _quiet_loop(self) -> Iterator[None]:
        """Branches that a task has left to themselves end with Unwind too, and nobody needs to hear of it."""
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if not isinstance(context.get("exception"), Unwind):
                (before or asyncio.AbstractEventLoop.default_exception_handler)(loop, context)

        loop.set_exception_handler(handle)
        try:
            yield
        finally:
            loop.set_exception_handler(before)

    # -- Sessions and signals, called by the heartbeat

    def _on_session(self, session: Session) -> None:
        self._session = session
        self._app.ahead_ms = session.ahead_ms
        self._attached.set()

    def _on_signals(self, signals: Sequence[Signal]) -> None:
        for each in signals:
            run = self._runs.get(each.task)
            if run is not None and run.work.fence == each.fence:
                self._let_go(run, "cancelled" if each.kind == "cancel" else "lost")
            for work in [work for work in self._handed_out if work.fence == each.fence]:
                self._handed_out.remove(work)
                self._pulse.let_go(work)

    async def _current_session(self) -> str:
        while self._session is None:
            await self._attached.wait()
        return self._session.id

    def _session_is_over(self, session: str) -> None:
        if self._session is not None and self._session.id == session:
            self._session = None
            self._attached.clear()
            self._pulse.hello_again(session)

    # -- Work

    async def _poll(self) -> None:
        backoff = Backoff()
        while True:
            free = self._slots - len(self._running) - len(self._handed_out)
            if free <= 0:
                self._free.clear()
                await self._free.wait()
                continue
            session = await self._current_session()
            try:
                delivery = await self._transport.send(wire.poll(session, free))
            except Exception as error:
                if wire.session_is_over(error):
                    self._session_is_over(session)
                elif not is_transient(error) and not isinstance(error, Corrupt):  # that may be one queue's
                    raise
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                self._take(delivery)

    async def _post(self, ops: Sequence[Op]) -> Sequence[Ack]:
        while True:
            session = await self._current_session()
            claim = 0 if self._stopping.is_set() else len({op.task for op in ops if op.ends})
            try:
                delivery = await self._transport.send(wire.ops(session, ops, claim))
            except Exception as error:
                if not wire.session_is_over(error):
                    raise
                self._session_is_over(session)
            else:
                self._take(delivery)
                return delivery.acks

    def _take(self, delivery: wire.Delivery) -> None:
        # Answers come late, never early: of a session the latest time counts.
        self._app.ahead_ms = max(self._app.ahead_ms or delivery.ahead_ms, delivery.ahead_ms)
        for work in delivery.work:
            self._pulse.hold(work)
            if self._stopping.is_set():  # it was on its way; others need not wait for the end of the draining
                self._give_back(work)
            else:
                self._handed_out.append(work)
        self._on_signals(delivery.signals)
        self._fill()

    def _fill(self) -> None:
        while self._handed_out and len(self._running) < self._slots and not self._stopping.is_set():
            # In the context of the worker: this may be called in that of another task.
            start = functools.partial(asyncio.create_task, self._execute(self._handed_out.popleft()))
            running = self._context.copy().run(start)
            self._running.add(running)
            running.add_done_callback(self._freed)
        if len(self._running) < self._slots:
            self._free.set()

    def _freed(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._fill()

    async def _execute(self, work: Work) -> None:
        run, held = Run(self, work, work.steps), False
        self._runs[work.task] = run
        try:
            await self._load_rest(run)
            if work.name in self._tasks:
                await self._attempt(run)
            else:
                log.error('task %s has the name "%s", which this worker did not offer', work.task, work.name)
                await run.send(wire.op_release(work, self.now_ms() + _LET_GO_DELAY_MS))
        except Exception as error:
            log.warning('task %s "%s" is let go: %s', work.task, work.name, error)
            if not wire.run_is_over(error):  # or it would be ours, and stay running, for as long as this worker lives
                self._give_back(work, self.now_ms() + _LET_GO_DELAY_MS)
                held = True
        finally:
            self._let_go(run, "finished", held)

    async def _attempt(self, run: Run) -> None:
        """Runs the code, and reports how it ended unless that is known already."""
        if run.ended is not None:
            return
        running = asyncio.create_task(self._call(run))
        over = asyncio.create_task(run.over.wait())
        try:
            await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
            if run.ended is not None:
                self._let_go(run, run.ended)
            if run.ended == "suspended":
                await asyncio.wait({running}, timeout=_UNWIND_S)
            while not running.done():
                running.cancel()
                await asyncio.wait({running}, timeout=_RECANCEL_S)
                if not running.done():
                    log.warning('task %s "%s" has ended and does not stop', run.work.task, run.work.name)
        finally:
            running.cancel()
            over.cancel()
        output, error = running.result()
        if run.ended is None:
            run.end("finished")
            await self._finish(run, output, error)

    async def _call(self, run: Run) -> tuple[Any, BaseException | None]:
        """The task's code inside its hooks: what it returned or raised. Nothing gets out of here."""
        work, ctx = run.work, Context(self._app, run)

        async def innermost() -> Any:
            return await self._tasks[work.name].fn(ctx, work.input)

        call: Callable[[], Awaitable[Any]] = innermost
        for hook in reversed(self._app._wrap_task):
            call = functools.partial(hook, ctx, call)
        try:
            output = await call()
            await run.settled()
            return output, None
        except BaseException as error:
            return None, error

    async def _finish(self, run: Run, output: Any, error: BaseException | None) -> None:
        work = run.work
        if error is None:
            try:
                await run.send(wire.op_finish(work, encode(output, f'the output of task "{work.name}"')))
                return
            except Refused as refused:
                if wire.run_is_over(refused):
                    raise
                error = refused
        log.warning('task %s "%s", attempt %d', work.task, work.name, work.attempt, exc_info=error)
        await run.send(wire.op_finish_failed(work, Failure.of(error)))

    async def _load_rest(self, run: Run) -> None:
        after, backoff = run.work.steps_next, Backoff()
        while after is not None and run.ended is None:
            try:
                steps, after = await self._transport.send(wire.steps(run.work, after))
                run.recorded.update((step.key, step) for step in steps)
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(backoff.next_s())

    def _let_go(self, run: Run, why: str, held: bool = False) -> None:
        run.end(why)
        if not held:
            self._pulse.let_go(run.work)
        if self._runs.get(run.work.task) is run:
            del self._runs[run.work.task]

    def _give_back(self, work: Work, due_at_ms: int | None = None) -> asyncio.Task[Ack]:
        """Held until it is acknowledged, or refused: then it is not ours any more."""

        def over(sent: asyncio.Task[Ack]) -> None:
            self._pulse.let_go(work)
            if not sent.cancelled():
                sent.exception()  # heard

        run, op = self._runs.get(work.task), wire.op_release(work, due_at_ms)
        begun = run is not None and run.work.fence == work.fence  # then it may hold something back
        sending = asyncio.create_task(run.send(op) if run and begun else self._lane.send([op]))
        sending.add_done_callback(over)
        return sending

    # -- What a run asks of its host

    async def send(self, ops: Sequence[Op]) -> Ack:
        return await self._lane.send(ops)

    def now_ms(self) -> int:
        return self._app.now_ms()

    def note(self, work: Work, step: str | None) -> None:
        self._pulse.note(work, step)

    def progress(self, work: Work, progress: Json | None) -> None:
        self._pulse.progress(work, progress)
