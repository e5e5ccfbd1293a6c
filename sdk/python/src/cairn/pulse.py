"""The session of a worker, and its heartbeat: one thread that task code cannot block.

It says hello, beats, says hello again when the server does not know the session any more (with what is still held, so
that a restart of the server costs no task), and says bye. If nobody answers from its start on it gives up; once it was
answered it outlasts any outage. What the event loop must know is handed to it by ``call_soon_threadsafe``; what the
thread must know stands under one lock, which is never held while something is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from . import wire
from .errors import is_transient
from .policy import Backoff
from .values import Json
from .wire import BlockingTransport, Call, Endpoint, Live, Session, Signal, Work

_PAUSE_S_MIN = 0.05
_ATTACH_S = 10.0

log = logging.getLogger("cairn")


class Pulse(threading.Thread):
    def __init__(
        self,
        endpoint: Endpoint,
        hello: Callable[[Mapping[str, str]], Call[Session]],
        on_session: Callable[[Session], None],
        on_signals: Callable[[Sequence[Signal]], None],
    ) -> None:
        """The callbacks run on the event loop that makes this."""
        super().__init__(name="cairn-heartbeat", daemon=True)
        self._endpoint = endpoint
        self._hello = hello
        self._on_session, self._on_signals = on_session, on_signals
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when the thread has ended, with the reason if it was not told to stop."""
        self._changed = threading.Condition()
        # Under the lock:
        self._live: dict[str, Live] = {}
        self._session: Session | None = None
        self._hurry = False
        self._stopping = False

    # -- For the event loop

    def hold(self, work: Work) -> None:
        with self._changed:
            self._live[work.task] = Live(work.fence)

    def let_go(self, work: Work) -> None:
        with self._changed:
            if self._holds(work):
                del self._live[work.task]

    def note(self, work: Work, step: str | None) -> None:
        with self._changed:
            if self._holds(work):
                self._live[work.task] = replace(self._live[work.task], step=step)

    def progress(self, work: Work, progress: Json | None) -> None:
        """Beats now."""
        with self._changed:
            if self._holds(work):
                if progress is not None:
                    self._live[work.task] = replace(self._live[work.task], progress=progress)
                self._wake()

    def hello_again(self, session: str) -> None:
        """The server does not know ``session``."""
        with self._changed:
            if self._session is not None and self._session.id == session:
                self._session = None
                self._wake()

    def stop(self) -> None:
        """Says bye, and ends."""
        with self._changed:
            self._stopping = True
            self._wake()

    # -- The thread

    def run(self) -> None:
        transport = BlockingTransport(self._endpoint)
        try:
            self._beat(transport)
            if self._session is not None:
                with contextlib.suppress(Exception):  # if it does not arrive, the lease ends by itself
                    transport.send(wire.bye(self._session.id))
            self._tell(self.over.set_result, None)
        except Exception as error:
            self._tell(self.over.set_exception, error)
        finally:
            transport.close()

    def _beat(self, transport: BlockingTransport) -> None:
        backoff, begun, attached = Backoff(max_s=2.0), time.monotonic(), False
        while not self._stopping:
            with self._changed:
                session, live = self._session, dict(self._live)
            try:
                if session is None:
                    session = transport.send(self._hello({task: each.fence for task, each in live.items()}))
                    attached = True
                    with self._changed:
                        self._session = session
                    self._tell(self._on_session, session)
                    self._tell(self._on_signals, [Signal("lost", task, live[task].fence) for task in session.stop])
                else:
                    delivery = transport.send(wire.beat(session.id, live))
                    self._tell(self._on_signals, delivery.signals)
                backoff.reset()
                pause_s = session.beat_s
            except Exception as error:
                if session is None and not is_transient(error):
                    raise  # no later hello will be answered otherwise
                if not attached and time.monotonic() - begun >= _ATTACH_S:
                    raise
                log.warning("%s: %s", "hello" if session is None else "heartbeat", error)
                if session is not None and wire.session_is_over(error):
                    with self._changed:
                        self._session = None
                pause_s = backoff.next_s()
            with self._changed:
                self._changed.wait_for(lambda: self._hurry, pause_s)
                self._hurry = False
            if not self._stopping:
                time.sleep(_PAUSE_S_MIN)  # however often a task shows its progress

    def _holds(self, work: Work) -> bool:
        held = self._live.get(work.task)
        return held is not None and held.fence == work.fence

    def _wake(self) -> None:
        self._hurry = True
        self._changed.notify()

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: nobody works on what is held
            self.stop()
