"""Protocol 1 of the server. Every path, field name and limit of it that the SDK knows stands in this file.

Two things are kept apart: what is said (a ``Call`` with its reader, made by the functions below) and who says it (a
transport: one for the event loop, one for the thread of the heartbeat). Neither sends anything twice by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar, cast
from urllib.parse import quote

import httpx

from .errors import Failure, Invalid, Refused, Unreachable
from .policy import Cancel, Moment, Retry, Span, moment_ms, monotonic_ms, span_ms
from .values import Json, decode, encode, join, join_list

PROTOCOL = "1"
POLL_WAIT_MS_MAX = 25_000
OPS_BYTES_MAX = 8 << 20  # of several calls together; a body may have 16 MiB, which is more than one call ever has
BEAT_BYTES_MAX = 15 << 20
OPS_MAX = 256
STEPS_PAGE = 1000
TERMINAL = frozenset({"completed", "failed", "cancelled"})

_DETAIL_BYTES_MAX = 512 << 10  # of a failure, whose parts together may have 1 MiB
_CONNECT_S = 5.0
_ANSWER_S = 30.0
_BEAT_ANSWER_S = 5.0  # well within a lease, so that a lost beat can be made up for

T = TypeVar("T")

# What a step id stands for. One id, one kind.
StepKind = Literal["step", "spawn", "emit", "timer", "event", "task"]
KINDS: frozenset[str] = frozenset({"step", "spawn", "emit", "timer", "event", "task", "promise"})
WaitKind = Literal["timer", "event", "task"]
Outcome = Literal["value", "failed", "cancelled", "timed_out"]


# -- What the server says ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A checkpoint, or how a wait ended."""

    key: str
    kind: str  # "" where the server does not say
    outcome: Outcome
    value: Any = None
    failure: Failure | None = None
    attempt: int = 1

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Step:
        outcome: Outcome = raw.get("outcome") or ("failed" if raw.get("status") == "failed" else "value")
        failure = raw.get("failure")
        return Step(
            key=raw["key"],
            kind=raw.get("kind", ""),
            outcome=outcome,
            value=raw.get("value"),
            failure=failure and read_failure(failure),
            attempt=raw.get("attempt", 1),
        )


@dataclass(frozen=True)
class Work:
    """A task handed out: one attempt, until it is finished, suspended, released or lost."""

    task: str
    attempt: int
    fence: str
    name: str
    version: str | None
    queue: str
    input: Any
    headers: Mapping[str, Any]
    steps: Sequence[Step]
    steps_next: str | None

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Work:
        return Work(
            task=raw["task"],
            attempt=raw["attempt"],
            fence=raw["fence"],
            name=raw["name"],
            version=raw.get("version"),
            queue=raw["queue"],
            input=raw.get("input"),
            headers=raw.get("headers") or {},
            steps=_read_all(Step.read, raw.get("steps")),
            steps_next=raw.get("steps_next"),
        )


@dataclass(frozen=True)
class Signal:
    """A task is no longer this worker's, if it has it under this fence."""

    kind: str  # cancel, lost
    task: str
    fence: str

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Signal:
        return Signal(raw["kind"], raw["task"], raw["fence"])


@dataclass(frozen=True)
class Session:
    id: str
    beat_s: float
    stop: Sequence[str]
    """Of the tasks that hello named those that are no longer this worker's."""
    ahead_ms: int

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Session:
        return Session(raw["session"], raw["beat_ms"] / 1000, raw.get("stop") or [], _read_ahead_ms(raw))


@dataclass(frozen=True)
class Ack:
    error: Refused | None
    resumed: Sequence[Step] = ()
    """Of a suspension that did not happen, because these waits are over already."""
    id: str | None = None
    """Of the task that a spawn made or found."""

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Ack:
        if error := raw.get("error"):
            return Ack(read_error(error))
        return Ack(None, _read_all(Step.read, raw.get("resumed")), raw.get("id"))


@dataclass(frozen=True)
class Delivery:
    """What poll, ops and beat may all bring."""

    work: Sequence[Work]
    signals: Sequence[Signal]
    acks: Sequence[Ack]
    ahead_ms: int

    @staticmethod
    def read(raw: Mapping[str, Any]) -> Delivery:
        return Delivery(
            _read_all(Work.read, raw.get("work")),
            _read_all(Signal.read, raw.get("signals")),
            _read_all(Ack.read, raw.get("acks")),
            _read_ahead_ms(raw),
        )


@dataclass(frozen=True)
class Spawned:
    id: str
    created: bool


def _read_ahead_ms(raw: Mapping[str, Any]) -> int:
    """The server's clock less this machine's monotonic one. An answer that was long on its way makes it too small."""
    return int(raw["now_ms"]) - monotonic_ms()


def read_failure(raw: Mapping[str, Any]) -> Failure:
    return Failure(raw.get("kind", ""), raw.get("message", ""), raw.get("detail"), raw.get("retryable", True))


def read_error(raw: Mapping[str, Any]) -> Refused:
    return Refused.of(raw.get("kind", "unknown"), raw.get("message", ""), raw.get("field"))


def spawned_child(step: Step) -> str:
    """The id of the child, from the recorded spawn."""
    return cast(str, step.value["id"] if isinstance(step.value, dict) else step.value)


def _read_all(read: Callable[[Mapping[str, Any]], T], raws: Iterable[Mapping[str, Any]] | None) -> list[T]:
    return [read(raw) for raw in raws or ()]


# -- What a task says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    task: str
    body: Json
    ends: bool = False
    """Whether the task's slot is free once this is done, whatever the answer."""


@dataclass(frozen=True)
class Wait:
    key: str
    kind: WaitKind
    name: str | None = None
    id: str | None = None
    until_ms: int | None = None
    timeout_at_ms: int | None = None


class SpawnOptions(TypedDict, total=False):
    """How a task is started. What is not given comes from its registration, then from the server."""

    queue: str
    id: str
    """A UUIDv7 of the caller's own making."""
    key: str
    """Idempotency key: a second spawn with it in this queue finds the first task, whatever its name."""
    delay: Span
    due: Moment
    headers: Mapping[str, Any]
    tags: Mapping[str, str]
    priority: int
    retry: Retry
    max_attempts: int
    max_lost: int
    """How many workers may die with it before it has failed."""
    cancel: Cancel


def op_step(work: Work, key: str, value: Json) -> Op:
    return _op(work, "step", key=key, value=value)


def op_step_failed(work: Work, key: str, failure: Failure) -> Op:
    return _op(work, "step", key=key, failure=failure_json(failure))


def op_spawn(work: Work, key: str, spawn: Json) -> Op:
    return _op(work, "spawn", key=key, spawn=spawn)


def op_emit(work: Work, key: str, name: str, payload: Json) -> Op:
    return _op(work, "emit", key=key, name=name, payload=payload)


def op_suspend(work: Work, waits: Iterable[Wait]) -> Op:
    return _op(work, "suspend", waits=join_list([join(vars(wait)) for wait in waits]))


def op_finish(work: Work, output: Json) -> Op:
    return _op(work, "finish", ends=True, output=output)


def op_finish_failed(work: Work, failure: Failure) -> Op:
    return _op(work, "finish", ends=True, failure=failure_json(failure))


def op_release(work: Work, due_at_ms: int | None = None) -> Op:
    return _op(work, "release", ends=True, due_at_ms=due_at_ms)


def _op(work: Work, op: str, *, ends: bool = False, **fields: Any) -> Op:
    return Op(work.task, join({"op": op, "task": work.task, "fence": work.fence, **fields}), ends)


def failure_json(failure: Failure) -> Json:
    """Nothing in it keeps a failure from being recorded: what is too large is cut; a detail that is, or is nested
    too deeply, is left out."""
    detail: Any = _utf8(failure.detail) if isinstance(failure.detail, str) else failure.detail
    try:
        detail = None if detail is None else encode(detail, "the detail", _DETAIL_BYTES_MAX)
    except Refused:
        detail = None
    kind, message = _utf8(failure.kind[:200]), _utf8(failure.message[:16_000])
    return join({"kind": kind, "message": message, "detail": detail, "retryable": failure.retryable})


def _utf8(text: str) -> str:
    """Text of exceptions may hold what no encoding has."""
    return text.encode(errors="replace").decode()


def retry_json(retry: Retry | None) -> Json | None:
    if retry is None:
        return None
    base_ms, max_ms = span_ms(retry.base, "base"), span_ms(retry.max, "max")
    fields = {"kind": retry.kind, "base_ms": base_ms, "factor": retry.factor, "max_ms": max_ms, "jitter": retry.jitter}
    return join(fields)


def cancel_json(cancel: Cancel | None) -> Json | None:
    spans = {"max_delay_ms": cancel.max_delay, "max_duration_ms": cancel.max_duration} if cancel else {}
    return join({name: span_ms(span, name) for name, span in spans.items() if span is not None}) if spans else None


def spawn_json(name: str, input: Json, id: str, queue: str, options: SpawnOptions) -> Json:
    due, delay, headers, tags = options.get("due"), options.get("delay"), options.get("headers"), options.get("tags")
    fields = {
        "id": id,
        "queue": queue,
        "name": name,
        "input": input,
        "headers": headers and encode(dict(headers), "headers"),
        "tags": tags and encode(dict(tags), "tags"),
        "idempotency_key": options.get("key"),
        "due_at_ms": None if due is None else moment_ms(due, "due"),
        "delay_ms": None if delay is None else span_ms(delay, "delay"),
        "priority": options.get("priority"),
        "retry": retry_json(options.get("retry")),
        "max_attempts": options.get("max_attempts"),
        "max_lost": options.get("max_lost"),
        "cancel": cancel_json(options.get("cancel")),
    }
    return join(fields)


# -- Calls ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call(Generic[T]):
    method: str
    path: str
    read: Callable[[Any], T]
    body: Json | None = None
    params: Mapping[str, str | int] | None = None
    answer_s: float = _ANSWER_S
    """How long to wait for the answer."""


def spawn(spawns: list[Json], atomic: bool) -> Call[list[Spawned | Refused]]:
    def read(raw: Any) -> list[Spawned | Refused]:
        return [
            read_error(each["error"]) if "error" in each else Spawned(each["id"], each["created"])
            for each in raw["results"]
        ]

    return Call("POST", "/v1/tasks", read, join({"tasks": join_list(spawns), "atomic": atomic}))


def task(id: str) -> Call[dict[str, Any]]:
    return Call("GET", _path("/v1/tasks/{}", id), _as_is)


def result(id: str, wait_ms: int) -> Call[dict[str, Any]]:
    return Call(
        "GET",
        _path("/v1/tasks/{}/result", id),
        _as_is,
        params={"wait_ms": wait_ms},
        answer_s=wait_ms / 1000 + _ANSWER_S,
    )


def steps(work: Work, after: str) -> Call[tuple[list[Step], str | None]]:
    """The steps after those that came with ``work``. Steps that have failed in earlier attempts are left out, as they
    are of a hand-out: this attempt tries them anew."""

    def read(raw: Any) -> tuple[list[Step], str | None]:
        page = _read_all(Step.read, raw["items"])
        own = [s for s in page if s.outcome != "failed" or s.kind != "step" or s.attempt == work.attempt]
        return own, raw.get("next")

    return Call("GET", _path("/v1/tasks/{}/steps", work.task), read, params={"after": after, "limit": STEPS_PAGE})


def cancel(id: str, reason: str | None) -> Call[dict[str, Any]]:
    return Call("POST", _path("/v1/tasks/{}/cancel", id), _as_is, join({"reason": reason}))


def retry(id: str, mode: str, extra_attempts: int) -> Call[dict[str, Any]]:
    body = join({"mode": mode, "extra_attempts": extra_attempts})
    return Call("POST", _path("/v1/tasks/{}/retry", id), _as_is, body)


def make_queue(queue: str) -> Call[dict[str, Any]]:
    return Call("PUT", _path("/v1/queues/{}", queue), _as_is, join({}))


def emit(queue: str, name: str, payload: Json) -> Call[bool]:
    def read(raw: Any) -> bool:
        (each,) = raw["results"]
        if "error" in each:
            raise read_error(each["error"])
        return bool(each["created"])

    body = join({"events": join_list([join({"name": name, "payload": payload})])})
    return Call("POST", _path("/v1/queues/{}/events", queue), read, body)


def test_clock(field: Literal["advance_ms", "set_ms"], ms: int) -> Call[int]:
    return Call("POST", "/v1/test/clock", _read_ahead_ms, join({field: ms}))


def hello(
    name: str, sdk: str, tasks: Mapping[str, str | None], queues: Sequence[str], slots: int, live: Mapping[str, str]
) -> Call[Session]:
    body = join(
        {
            "name": name,
            "sdk": sdk,
            "tasks": join_list([join({"name": task, "version": version}) for task, version in tasks.items()]),
            "queues": list(queues),
            "slots": slots,
            "live": [{"task": task, "fence": fence} for task, fence in live.items()],
        }
    )
    return Call("POST", "/v1/workers/hello", Session.read, body, answer_s=_BEAT_ANSWER_S)


@dataclass(frozen=True)
class Live:
    """What a heartbeat says of one task."""

    fence: str
    step: str | None = None
    progress: Json | None = None


def beat(session: str, live: Mapping[str, Live]) -> Call[Delivery]:
    tasks, size = [], 0
    for task, each in live.items():
        said = join({"task": task, **vars(each)})
        if size + len(said) > BEAT_BYTES_MAX:  # to be heard matters more than what is shown
            said = join({"task": task, **vars(each), "progress": None})
        tasks.append(said)
        size += len(said)
    body = join({"session": session, "live": join_list(tasks)})
    return Call("POST", "/v1/workers/beat", Delivery.read, body, answer_s=_BEAT_ANSWER_S)


def poll(session: str, free: int) -> Call[Delivery]:
    body = join({"session": session, "free": free, "wait_ms": POLL_WAIT_MS_MAX})
    return Call("POST", "/v1/workers/poll", Delivery.read, body, answer_s=POLL_WAIT_MS_MAX / 1000 + _ANSWER_S)


def ops(session: str, ops: Sequence[Op], claim: int) -> Call[Delivery]:
    body = join({"session": session, "ops": join_list([op.body for op in ops]), "claim": claim})

    def read(raw: Any) -> Delivery:
        delivery = Delivery.read(raw)
        if len(delivery.acks) != len(ops):
            raise ValueError(f"{len(ops)} operations and {len(delivery.acks)} answers")
        return delivery

    return Call("POST", "/v1/workers/ops", read, body)


def bye(session: str) -> Call[None]:
    body = join({"session": session})
    return Call("POST", "/v1/workers/bye", lambda raw: None, body, answer_s=_BEAT_ANSWER_S)


def session_is_over(error: BaseException) -> bool:
    """Whether the server does not know the session (any more): say hello again."""
    return isinstance(error, Refused) and error.kind in ("gone", "not_found")


def run_is_over(error: BaseException) -> bool:
    """Whether a refused operation means that the task is not ours any more."""
    return isinstance(error, Refused) and error.kind in ("stale_fence", "cancelled", "gone")


def _path(template: str, name: str) -> str:
    if not name:
        raise Invalid(f"{template}: the name in it is empty")
    return template.format(quote(name, safe=""))


def _as_is(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return raw


# -- Transports ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    url: str
    token: str | None

    def __post_init__(self) -> None:
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise Invalid(f"{self.url!r} is no URL: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise Invalid(f"{self.url!r} is no URL of a server, such as http://127.0.0.1:8080")

    def headers(self) -> dict[str, str]:
        authorization = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return {"cairn-protocol": PROTOCOL, "content-type": "application/json", **authorization}


class Transport:
    """For one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        # As many connections as calls, or a hundred that wait for results would keep all others from being made.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._client = httpx.AsyncClient(base_url=endpoint.url, headers=endpoint.headers(), limits=limits)

    async def send(self, call: Call[T]) -> T:
        try:
            return _answer(call, await self._client.request(**_request(call)))
        except httpx.HTTPError as error:
            raise _unreachable(call, error) from error

    async def close(self) -> None:
        await self._client.aclose()


class BlockingTransport:
    """For a thread without an event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = httpx.Client(base_url=endpoint.url, headers=endpoint.headers())

    def send(self, call: Call[T]) -> T:
        try:
            return _answer(call, self._client.request(**_request(call)))
        except httpx.HTTPError as error:
            raise _unreachable(call, error) from error

    def close(self) -> None:
        self._client.close()


def _request(call: Call[Any]) -> dict[str, Any]:
    timeout = httpx.Timeout(call.answer_s, connect=_CONNECT_S)
    return {"method": call.method, "url": call.path, "content": call.body, "params": call.params, "timeout": timeout}


def _unreachable(call: Call[Any], error: httpx.HTTPError) -> Unreachable:
    return Unreachable(f"no answer to {call.method} {error.request.url}: {type(error).__name__} {error}")


def _answer(call: Call[T], response: httpx.Response) -> T:
    if response.is_success:
        try:
            return call.read(decode(response.content or b"null"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"the answer to {call.method} {call.path} is not of protocol {PROTOCOL}: {error!r}"
            raise Refused.of("internal", text) from error
    try:
        raise read_error(decode(response.content)["error"])
    except (KeyError, TypeError, ValueError, AttributeError):
        # Not the server's own words, perhaps those of a proxy before it.
        kind = "unknown" if response.status_code >= 500 or response.status_code in (408, 429) else "invalid"
        text = f"{call.method} {call.path}: {response.status_code} {response.text[:200]}"
        raise Refused.of(kind, text) from None
