"""What a task holds: the durable calls.

Everything here that is awaited is recorded under the id of its name, or suspends the task. What a call returns has been
through JSON in the first run as in every replay, so both see the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, cast, overload

from . import wire
from .errors import AmbiguousStep, Conflict, Failure, Invalid, Recorded, StepFailed, TaskCancelled, TaskFailed, TimedOut
from .ids import Scope, extend
from .policy import MAX_ATTEMPTS, Moment, Retry, Span, moment_ms, span_ms
from .run import Run, in_step
from .values import Json, decode, encode
from .wire import Step, Wait, WaitKind

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .app import App, Task
    from .wire import SpawnOptions

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

# A longer pause between two attempts of a step is a durable wait: it holds no slot and survives the worker.
_PAUSE_IN_PLACE_MS_MAX = 5_000
_PROGRESS_BYTES_MAX = 64 << 10
_REQUIRED: Any = object()


class StepPolicy(TypedDict, total=False):
    retry: Retry | None
    max_attempts: int | None
    timeout: Span | None
    may_rerun: bool
    """The call returns before its value is recorded: that goes with the task's next durable call or its end, in the
    same request. A crash before that runs the step again, although it had returned."""


class StepHandle(Generic[T]):
    """A step cut in two: its body stands between ``begin_step`` and ``complete_step``."""

    def __init__(self, scope: Scope, name: str, id: str, found: Step | None) -> None:
        self.id = id
        self.done = found is not None
        """Whether the value is recorded already: then skip the body."""
        self.value: T | None = found.value if found else None
        self._scope, self._name = scope, name

    def _end(self) -> None:
        self._scope.end(self._name)


class Child(Generic[O]):
    """A task that was spawned by this one."""

    def __init__(self, run: Run, id: str, key: str) -> None:
        self.id = id
        self._run, self._key = run, key

    async def result(self, timeout: Span | None = None) -> O:
        """Its output. Until then the task is suspended and holds no slot.

        Raises TaskFailed, TaskCancelled, or TimedOut; the child itself runs on then.
        """
        run = self._run
        await run.enter()
        key = extend(self._key, "result")
        if run.is_waiting(key):
            raise AmbiguousStep(f"the result of task {self.id} is awaited twice at a time")
        step = await run.wait("task", Wait(key, "task", id=self.id, timeout_at_ms=run.after_ms(timeout, "timeout")))
        return cast(O, _value(step, f"task {self.id}", TaskFailed))


class Context:
    def __init__(self, app: App, run: Run, scope: Scope | None = None) -> None:
        self._app, self._run = app, run
        self._scope = scope or run.root

    @property
    def task_id(self) -> str:
        return self._run.work.task

    @property
    def task_name(self) -> str:
        return self._run.work.name

    @property
    def queue(self) -> str:
        return self._run.work.queue

    @property
    def attempt(self) -> int:
        """From 1. Never make a key for another system of it: use ``key``."""
        return self._run.work.attempt

    @property
    def version(self) -> str | None:
        """The version that its code was registered with, if any."""
        return self._run.work.version

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._run.work.headers

    def key(self, name: str) -> str:
        """The same in every attempt, for systems that drop repeats: {task id}/{step id}, the step being the unfinished
        one of this name or the next."""
        return f"{self.task_id}/{self._scope.peek(name)}"

    # -- Steps

    @overload
    async def step(self, name: str, fn: Callable[..., Awaitable[T]], *args: Any, **policy: Unpack[StepPolicy]) -> T: ...
    @overload
    async def step(self, name: str, fn: Callable[..., T], *args: Any, **policy: Unpack[StepPolicy]) -> T: ...
    async def step(self, name: str, fn: Callable[..., Any], *args: Any, **policy: Unpack[StepPolicy]) -> Any:
        """``fn(*args)``, recorded once: replays return what was recorded. A plain function runs in a thread.

        Without ``retry`` and ``max_attempts`` an exception passes through unrecorded, and the task's policy decides.
        With either the step tries again by itself, and the failure of its last try is recorded: StepFailed, in every
        replay of this attempt of the task; the next attempt tries the step anew. ``timeout`` ends one try; a function
        in a thread then runs on unheeded. With ``may_rerun`` the value is recorded a little later, and saves a wait.
        """
        await self._run.enter()
        if unknown := policy.keys() - StepPolicy.__annotations__.keys():
            raise TypeError(f"step has no option {', '.join(sorted(unknown))}")
        timeout, retry, max_attempts = policy.get("timeout"), policy.get("retry"), policy.get("max_attempts")
        limit_s = None if timeout is None else span_ms(timeout, "timeout") / 1000
        if retry is not None or max_attempts is not None:
            retry, max_attempts = retry or Retry(), MAX_ATTEMPTS if max_attempts is None else max_attempts
            if max_attempts < 1:
                raise Invalid(f"max_attempts is at least 1, not {max_attempts}")
        with self._scope.calling(name) as key:
            found = self._run.recall(key, "step")
            if found is None:
                body = functools.partial(_call, self._run.host.executor, key, fn, args, limit_s)
                found = await self._attempt(key, body, retry, max_attempts or 1, policy.get("may_rerun", False))
            return _value(found, f'step "{key}"', StepFailed)

    async def _attempt(
        self, key: str, body: Callable[[], Awaitable[Any]], retry: Retry | None, max_attempts: int, may_rerun: bool
    ) -> Step:
        run = self._run
        # Attempts before a durable pause are remembered by it; those of a worker that died in between are not. The next
        # attempt of the task begins to count again.
        pauses = [extend(key, f"retry:{run.work.attempt}.{n}") for n in range(1, max_attempts)]
        failed = max((n for n, pause in enumerate(pauses, 1) if pause in run.recorded), default=0)
        while True:
            if failed:
                await self._pause(pauses[failed - 1], retry.delay_ms(failed) if retry else 0)
            with run.working():
                run.begin_step(key)
                try:
                    encoded = encode(await body(), f'the value of step "{key}"')
                except Exception as error:
                    failed += 1
                    failure = Failure.of(error)
                    if retry is None:
                        raise
                    if failed >= max_attempts or not failure.retryable:
                        await run.record(wire.op_step_failed(run.work, key, failure))
                        raise StepFailed(f'step "{key}"', failure) from error
                else:
                    await self._record(key, encoded, may_rerun)
                    return Step(key, "step", "value", decode(encoded))
                finally:
                    run.end_step(key)

    async def _record(self, key: str, encoded: Json, may_rerun: bool) -> None:
        op = wire.op_step(self._run.work, key, encoded)
        if may_rerun:
            await self._run.hold_back(op, len(encoded))
        else:
            await self._run.record(op)

    async def _pause(self, key: str, delay_ms: int) -> None:
        if delay_ms <= _PAUSE_IN_PLACE_MS_MAX and key not in self._run.recorded:
            with self._run.working():
                await asyncio.sleep(delay_ms / 1000)
        else:
            await self._run.wait("timer", Wait(key, "timer", until_ms=self._run.host.now_ms() + delay_ms))
        self._run.check()

    async def begin_step(self, name: str) -> StepHandle[Any]:
        """For code that cannot be a function, such as a loop in charge of itself."""
        await self._run.enter()
        id = self._scope.begin(name)
        handle: StepHandle[Any] = StepHandle(self._scope, name, id, self._run.recall(id, "step"))
        if handle.done:
            handle._end()
        else:
            self._run.begin_step(id)
        return handle

    async def complete_step(self, handle: StepHandle[Any], value: T, *, may_rerun: bool = False) -> T:
        """Records ``value``, and returns what replays will see of it. ``may_rerun`` is that of ``step``."""
        await self._run.enter()
        if handle.done:
            raise Conflict(f'step "{handle.id}" is complete already')
        encoded = encode(value, f'the value of step "{handle.id}"')
        await self._record(handle.id, encoded, may_rerun)
        handle.done, handle.value = True, decode(encoded)
        self._run.end_step(handle.id)
        handle._end()
        return cast(T, handle.value)

    # -- Waits: the task is suspended and holds no slot

    @overload
    async def sleep(self, span: Span, /) -> None: ...
    @overload
    async def sleep(self, name: str, span: Span, /) -> None: ...
    async def sleep(self, *name_and_span: Any) -> None:
        """``sleep(60)`` or ``sleep("cool down", 60)``: at least so long after this was first reached."""
        name, span = _optional_name("sleep", name_and_span)
        await self._run.enter()
        delay_ms = span_ms(span, "the span of a sleep")
        await self._wait(name, "timer", until_ms=self._run.host.now_ms() + delay_ms)

    @overload
    async def sleep_until(self, moment: Moment, /) -> None: ...
    @overload
    async def sleep_until(self, name: str, moment: Moment, /) -> None: ...
    async def sleep_until(self, *name_and_moment: Any) -> None:
        """Until an aware datetime, or seconds since 1970."""
        name, moment = _optional_name("sleep", name_and_moment)
        await self._run.enter()
        await self._wait(name, "timer", until_ms=moment_ms(moment, "the end of a sleep"))

    async def event(
        self, event: str, *, timeout: Span | None = None, default: Any = _REQUIRED, name: str | None = None
    ) -> Any:
        """The payload of the first event of this name in the task's queue, emitted before or after.

        A timeout is recorded: TimedOut, in every replay too, or ``default`` where one is given.
        """
        await self._run.enter()
        timeout_at_ms = self._run.after_ms(timeout, "timeout")
        step = await self._wait(name or f"event:{event}", "event", name=event, timeout_at_ms=timeout_at_ms)
        if step.outcome == "timed_out" and default is not _REQUIRED:
            return default
        return _value(step, f'event "{event}"', Recorded)

    async def _wait(self, step_name: str, kind: WaitKind, **wait: Any) -> Step:
        with self._scope.calling(step_name) as key:
            return await self._run.wait(kind, Wait(key, kind, **wait))

    # -- Other tasks and events

    @overload
    async def spawn(
        self, task: Task[I, O], input: I, *, name: str | None = None, **options: Unpack[SpawnOptions]
    ) -> Child[O]: ...
    @overload
    async def spawn(
        self, task: str, input: Any = None, *, name: str | None = None, **options: Unpack[SpawnOptions]
    ) -> Child[Any]: ...
    async def spawn(
        self, task: Any, input: Any = None, *, name: str | None = None, **options: Unpack[SpawnOptions]
    ) -> Child[Any]:
        """Starts a child, once. ``await child.result()`` suspends until it has ended."""
        await self._run.enter()
        child_id, spawn = self._app._spawn_json(task, input, options)
        with self._scope.calling(name or f"spawn:{task if isinstance(task, str) else task.name}") as key:
            if found := self._run.recall(key, "spawn"):
                return Child(self._run, wire.spawned_child(found), key)
            ack = await self._run.record(wire.op_spawn(self._run.work, key, spawn))
            return Child(self._run, ack.id or child_id, key)

    async def emit(self, event: str, payload: Any = None, *, name: str | None = None) -> None:
        """Emits in the task's queue, once; of several events of one name the first stands."""
        await self._run.enter()
        with self._scope.calling(name or f"emit:{event}") as key:
            if self._run.recall(key, "emit") is None:
                encoded = encode(payload, f'the payload of event "{event}"')
                await self._run.record(wire.op_emit(self._run.work, key, event, encoded))

    # -- Branches

    def scope(self, name: str) -> Context:
        """A context whose names are its own, for one branch of several."""
        path = self._scope.take(name)
        return Context(self._app, self._run, Scope(path))

    async def map(
        self,
        name: str,
        items: Iterable[I],
        fn: Callable[[Context, I], Awaitable[O]],
        *,
        key: Callable[[I], str] = str,
        limit: int | None = None,
        collect: bool = False,
    ) -> list[Any]:
        """``fn(ctx, item)`` for every item at a time (``limit`` of them), results in input order.

        Each item has a scope of its own, named by its key, so their order may change between attempts. The first
        failure stops the others, or with ``collect`` takes its place among the results.
        """
        path = self._scope.take(name)
        branches: dict[str, tuple[Context, I]] = {}
        for item in items:
            item_key = key(item)
            if item_key in branches:
                raise Invalid(f'two items of map "{path}" have the key {item_key!r}')
            branches[item_key] = Context(self._app, self._run, Scope(extend(path, item_key))), item
        gate = asyncio.Semaphore(limit or max(len(branches), 1))

        async def one(ctx: Context, item: I) -> O:
            async with gate:
                return await fn(ctx, item)

        running = [asyncio.ensure_future(one(*branch)) for branch in branches.values()]
        try:
            results = await asyncio.gather(*running, return_exceptions=collect)
        except BaseException:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        self._run.check()
        return list(results)

    # -- Signs of life

    async def heartbeat(self, progress: Any = None) -> None:
        """Shows ``progress`` (at most 64 KiB as JSON, nested at most 100 levels deep: every beat carries it) to who
        looks at the task, and lets a cancellation in. Not needed to keep the task: the worker beats by itself."""
        self._run.check()
        shown = None if progress is None else encode(progress, "progress", _PROGRESS_BYTES_MAX)
        self._run.host.progress(self._run.work, shown)
        await asyncio.sleep(0)
        self._run.check()


async def _call(
    executor: Executor, key: str, fn: Callable[..., Any], args: tuple[Any, ...], limit_s: float | None
) -> Any:
    """The body of a step, within its time."""

    async def body() -> Any:
        in_step.set(key)
        try:
            if inspect.iscoroutinefunction(fn):
                return await fn(*args)
            within = contextvars.copy_context()
            value = await asyncio.get_running_loop().run_in_executor(executor, lambda: within.run(fn, *args))
            return await value if inspect.isawaitable(value) else value
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f'step "{key}" tried to end the worker: {error!r}') from error

    running = asyncio.create_task(body())
    try:
        done, _ = await asyncio.wait({running}, timeout=limit_s)
    finally:
        running.cancel()
    if not done:
        raise TimeoutError(f'step "{key}" took longer than {limit_s} s')
    return running.result()


def _value(step: Step, what: str, failed: type[Recorded]) -> Any:
    if step.outcome == "value":
        return step.value
    error = {"failed": failed, "cancelled": TaskCancelled, "timed_out": TimedOut}[step.outcome]
    raise error(f"{what} {step.outcome.replace('_', ' ')}", step.failure)


def _optional_name(default: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    return (default, arguments[0]) if len(arguments) == 1 else (arguments[0], arguments[1])
