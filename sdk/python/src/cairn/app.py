"""The client's side: registering tasks, starting them, asking for results.

An ``App`` may be made at import time and used from any event loop; it opens its connections when first used.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from . import wire
from .context import Context
from .errors import Invalid, Refused, TaskCancelled, TaskFailed, is_transient
from .ids import TaskIds
from .policy import Backoff, Cancel, Moment, Retry, Span, moment_ms, monotonic_ms, span_ms
from .values import Json, encode
from .wire import Call, Endpoint, SpawnOptions, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .worker import Worker

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")

URL_DEFAULT = "http://127.0.0.1:8080"
_TRIES_MAX = 5

BeforeSpawn = Callable[[str, Any, SpawnOptions], SpawnOptions]
WrapTask = Callable[[Context, Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass(frozen=True)
class Task(Generic[I, O]):
    """A registered task. Calling it calls the function, without anything durable about it."""

    name: str
    version: str | None
    fn: Callable[[Context, I], Awaitable[O]]
    defaults: SpawnOptions

    def __call__(self, ctx: Context, input: I) -> Awaitable[O]:
        return self.fn(ctx, input)


class Handle(Generic[O]):
    """A task by its id."""

    def __init__(self, app: App, id: str, created: bool | None = None) -> None:
        self.id = id
        self.created = created
        """Whether this spawn has made it; None where there was no spawn."""
        self._app = app

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    async def result(self, timeout: Span | None = None) -> O:
        """Its output, once it is there. Raises TaskFailed, TaskCancelled, or the built-in TimeoutError, which says
        nothing about the task. Inside a task await a child's result instead: that holds no slot."""
        limit_s = float("inf") if timeout is None else span_ms(timeout, "timeout") / 1000
        deadline = time.monotonic() + limit_s
        backoff = Backoff()
        while True:
            asked = time.monotonic()
            left_s = max(deadline - asked, 0)
            try:
                wait_ms = int(min(left_s * 1000, wire.POLL_WAIT_MS_MAX))
                state = await self._app._send_once(wire.result(self.id, wait_ms))
                if state["status"] in wire.TERMINAL:
                    return cast(O, _output(self.id, state))
            except Exception as error:
                if not is_transient(error):
                    raise
            if left_s == 0:
                raise TimeoutError(f"task {self.id} has no result after {limit_s} s")
            if time.monotonic() - asked < 1:  # an answer before its time
                await asyncio.sleep(min(backoff.next_s(), max(deadline - time.monotonic(), 0)))

    async def status(self) -> str:
        """queued, running, waiting, completed, failed or cancelled."""
        return cast(str, (await self.info())["status"])

    async def info(self) -> dict[str, Any]:
        """All that the server says of it."""
        return await self._app._send(wire.task(self.id))

    async def cancel(self, reason: str | None = None) -> None:
        """Ends it for good, unless it has ended; its code notices at its next await."""
        await self._app._send(wire.cancel(self.id, reason))

    async def retry(self, mode: Literal["in_place", "new"] = "in_place", *, extra_attempts: int = 1) -> Handle[O]:
        """Runs a failed task again: in place with what it has recorded, or as a new task with the same input."""
        task = await self._app._send_once(wire.retry(self.id, mode, extra_attempts))
        return Handle(self._app, task["id"], mode == "new")


class TestClock:
    """The server's clock, for users' own tests: only under ``cairn serve --test-clock``."""

    __test__ = False  # not for the test runner

    def __init__(self, app: App) -> None:
        self._app = app

    async def advance(self, span: Span) -> int:
        """Moves it forward; what is due then is due now. Returns its time in ms."""
        return await self._move("advance_ms", span_ms(span, "the span to advance"))

    async def set(self, moment: Moment) -> int:
        return await self._move("set_ms", moment_ms(moment, "the time to set"))

    async def _move(self, field: Literal["advance_ms", "set_ms"], ms: int) -> int:
        # Sent once: advanced twice is not advanced once.
        self._app.ahead_ms = await self._app._send_once(wire.test_clock(field, ms))
        return self._app.now_ms()


class App:
    """A connection to a server, the tasks registered with it, and its workers."""

    def __init__(self, url: str | None = None, token: str | None = None, queue: str = "default") -> None:
        """``url`` and ``token`` default to the variables CAIRN_URL and CAIRN_TOKEN, ``url`` then to this machine."""
        self.queue = queue
        self.tasks: dict[str, Task[Any, Any]] = {}
        self._endpoint = Endpoint(
            url or os.environ.get("CAIRN_URL") or URL_DEFAULT, token or os.environ.get("CAIRN_TOKEN")
        )
        self._transport: tuple[asyncio.AbstractEventLoop, Transport] | None = None
        self._ids = TaskIds()
        self._before_spawn: list[BeforeSpawn] = []
        self._wrap_task: list[WrapTask] = []
        self.ahead_ms: int | None = None
        """How far the server's clock is ahead of this machine's monotonic one, once a worker or a test has heard."""

    async def __aenter__(self) -> App:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        held, self._transport = self._transport, None
        if held is not None and held[0] is asyncio.get_running_loop():
            await held[1].close()

    # -- Registering

    def task(
        self,
        name: str | None = None,
        *,
        queue: str | None = None,
        retry: Retry | None = None,
        max_attempts: int | None = None,
        cancel: Cancel | None = None,
        version: str | None = None,
    ) -> Callable[[Callable[[Context, I], Awaitable[O]]], Task[I, O]]:
        """Registers ``async def fn(ctx, input)`` under ``name``, its own unless given. ``version`` is told
        with the name when a worker starts, and is there to see which code ran. The rest are its defaults for every
        spawn that names this object or, with this App, its name."""
        if callable(name):
            raise Invalid("write @app.task(), with brackets")
        if not isinstance(version, (str, type(None))):
            raise Invalid(f"a version is text, not {version!r}")
        given = {"queue": queue, "retry": retry, "max_attempts": max_attempts, "cancel": cancel}
        defaults = cast(SpawnOptions, {option: value for option, value in given.items() if value is not None})

        def register(fn: Callable[[Context, I], Awaitable[O]]) -> Task[I, O]:
            if not inspect.iscoroutinefunction(fn):
                raise Invalid(f"a task is an async function of a context and an input, not {fn!r}")
            task = Task(name or fn.__name__, version, fn, defaults)
            if task.name in self.tasks:
                raise Invalid(f'a task "{task.name}" is registered already')
            self.tasks[task.name] = task
            return task

        return register

    def before_spawn(self, hook: BeforeSpawn) -> BeforeSpawn:
        """Registers ``hook(name, input, options) -> options``, which every spawn passes, inside tasks as well."""
        self._before_spawn.append(hook)
        return hook

    def wrap_task(self, hook: WrapTask) -> WrapTask:
        """Registers ``async hook(ctx, run)``, around every run of a task; it returns ``await run()``. The first
        registered is the outermost. Context variables set in it are the run's own."""
        self._wrap_task.append(hook)
        return hook

    # -- Starting and looking

    @overload
    async def spawn(self, task: Task[I, O], input: I, **options: Unpack[SpawnOptions]) -> Handle[O]: ...
    @overload
    async def spawn(self, task: str, input: Any = None, **options: Unpack[SpawnOptions]) -> Handle[Any]: ...
    async def spawn(self, task: Any, input: Any = None, **options: Unpack[SpawnOptions]) -> Handle[Any]:
        """Starts a task. When this returns it will run, whatever crashes. Sent again after a lost answer, it still
        starts once."""
        (spawned,) = await self.spawn_many([(task, input, options)])
        if isinstance(spawned, Refused):
            raise spawned
        return spawned

    async def spawn_many(
        self, spawns: Iterable[tuple[Any, Any, SpawnOptions]], *, atomic: bool = False
    ) -> list[Handle[Any] | Refused]:
        """Starts ``(task or name, input, options)`` each, in one request of at most 10,000 of them and 16 MiB. Results
        in order; one that is refused is its exception. With ``atomic`` all start or none."""
        encoded = [self._spawn_json(*spawn) for spawn in spawns]
        if not encoded:
            return []
        results = await self._send(wire.spawn([spawn for _, spawn in encoded], atomic))
        return [each if isinstance(each, Refused) else Handle(self, each.id, each.created) for each in results]

    def handle(self, id: str) -> Handle[Any]:
        return Handle(self, id)

    async def make_queue(self, queue: str | None = None) -> None:
        """Makes a queue, this App's unless named, if there is none. Only "default" is there from the beginning."""
        await self._send(wire.make_queue(self.queue if queue is None else queue))

    async def emit(self, event: str, payload: Any = None, *, queue: str | None = None) -> bool:
        """Emits once for all: who waits in the queue and who will is given this payload. False if one of this name
        was there before; that one stands."""
        encoded = encode(payload, f'the payload of event "{event}"')
        return await self._send(wire.emit(self.queue if queue is None else queue, event, encoded))

    def worker(
        self, *, slots: int = 10, queues: Iterable[str] | None = None, name: str | None = None, drain: Span = 30.0
    ) -> Worker:
        """Runs the tasks registered so far, at most ``slots`` at a time, from ``queues``: unless given, this App's
        and those of its tasks. ``drain`` is how long it lets them go on once it is told to stop."""
        from .worker import Worker

        wanted = {self.queue, *(task.defaults.get("queue", self.queue) for task in self.tasks.values())}
        return Worker(self, slots, sorted(wanted if queues is None else set(queues)), name, drain)

    def test_clock(self) -> TestClock:
        return TestClock(self)

    # -- For this package

    def now_ms(self) -> int:
        """The server's time as last heard of; until then this machine's."""
        return time.time_ns() // 1_000_000 if self.ahead_ms is None else monotonic_ms() + self.ahead_ms

    def _spawn_json(self, task: Task[Any, Any] | str, input: Any, options: SpawnOptions) -> tuple[str, Json]:
        """The id that the task will have, unless its key finds another, and what to send."""
        name = task.name if isinstance(task, Task) else task
        registered = task if isinstance(task, Task) else self.tasks.get(task)
        given = {option: value for option, value in options.items() if value is not None}
        options = cast(SpawnOptions, {**(registered.defaults if registered else {}), **given})
        for hook in self._before_spawn:
            options = hook(name, input, options)
        if unknown := options.keys() - SpawnOptions.__annotations__.keys():
            raise TypeError(f"spawn has no option {', '.join(sorted(unknown))}")
        if "due" in options and "delay" in options:
            raise Invalid("a task has a delay or a time when it is due, not both")
        id = options.get("id") or self._ids.next(self.now_ms())
        encoded = encode(input, f'the input of task "{name}"')
        return id, wire.spawn_json(name, encoded, id, options.get("queue", self.queue), options)

    async def _send(self, call: Call[T]) -> T:
        """For calls that may be done twice: a few more tries where there was no answer, or none that decides."""
        backoff = Backoff()
        for _ in range(_TRIES_MAX - 1):
            try:
                return await self._send_once(call)
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(backoff.next_s())
        return await self._send_once(call)

    async def _send_once(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport[0] is not loop:
            self._transport = loop, Transport(self._endpoint)
        return await self._transport[1].send(call)


def _output(id: str, state: Mapping[str, Any]) -> Any:
    if state["status"] == "completed":
        return state.get("output")
    failure = state.get("failure")
    error = TaskFailed if state["status"] == "failed" else TaskCancelled
    raise error(f"task {id} {state['status']}", failure and wire.read_failure(failure))
