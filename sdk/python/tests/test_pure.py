"""What needs no server: names, values, delays, and how a run replays and lets go."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import threading
import unittest
import unittest.mock
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cairn
from cairn import App, Context, Retry, errors, wire
from cairn.ids import Scope, TaskIds, extend, segment
from cairn.lane import Lane
from cairn.policy import moment_ms, span_ms
from cairn.pulse import Pulse
from cairn.run import Run, Unwind
from cairn.values import VALUE_BYTES_MAX, Json, Unreadable, decode, encode
from cairn.wire import Ack, Live, Op, Step, Work


class Names(unittest.TestCase):
    def test_segments_are_encoded_and_joined(self) -> None:
        for name, encoded in (("a", "a"), ("a/b", "a%2Fb"), ("a#2", "a%232"), ("50%", "50%25"), ("é x:y", "é x:y")):
            self.assertEqual(segment(name), encoded)
        self.assertEqual(extend("ship/sku%2F1", "book", 3), "ship/sku%2F1/book#3")

    def test_a_name_used_again_is_numbered_in_call_order(self) -> None:
        scope = Scope()
        self.assertEqual([scope.take(name) for name in ("a", "b", "a", "a", "b")], ["a", "b", "a#2", "a#3", "b#2"])
        self.assertEqual(Scope("map/1").take("a"), "map/1/a")

    def test_two_unfinished_calls_of_one_name_are_ambiguous(self) -> None:
        scope = Scope()
        with scope.calling("a"), self.assertRaises(errors.AmbiguousStep):
            scope.begin("a")
        with scope.calling("a") as second:
            self.assertEqual(second, "a#2", "the refused call took no number")

    def test_a_key_names_the_unfinished_call_or_the_next(self) -> None:
        scope = Scope()
        self.assertEqual(scope.peek("a"), "a")
        with scope.calling("a"):
            self.assertEqual(scope.peek("a"), "a")
        self.assertEqual(scope.peek("a"), "a#2")

    def test_ids_have_1_to_512_bytes_encoded(self) -> None:
        self.assertEqual(len(extend("", "/" * 170 + "ab")), 512)
        for name in ("", "x" * 513, "/" * 171, "é" * 257, "\ud800"):
            with self.assertRaises(errors.Invalid):
                extend("", name)
        with self.assertRaises(errors.Invalid):
            extend("x" * 255, "y" * 257)

    def test_task_ids_are_uuid_7_of_their_time(self) -> None:
        ids = TaskIds()
        first, second = uuid.UUID(ids.next(1)), uuid.UUID(ids.next(2))
        self.assertEqual((first.version, first.variant, first.int >> 80), (7, uuid.RFC_4122, 1))
        self.assertLess(first, second)

    def test_task_ids_of_one_millisecond_sort_as_they_were_made(self) -> None:
        for _ in range(20):
            ids = TaskIds()
            made = [ids.next(7) for _ in range(1000)]
            self.assertEqual(made, sorted(set(made)))
            self.assertEqual(
                {(each.version, each.variant, each.int >> 80) for each in map(uuid.UUID, made)}, {(7, uuid.RFC_4122, 7)}
            )


class Values(unittest.TestCase):
    def test_what_is_json_comes_back(self) -> None:
        values: list[Any] = [None, True, 0, -1.5, "é\n", [], {"a": [1, {"b": None}]}, 10**30]
        for value in values:
            self.assertEqual(decode(encode(value, "it")), value)

    def test_what_is_not_is_refused_with_its_place(self) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        for value, words in (
            ({"a": [1, float("nan")]}, "it.a[1] is nan"),
            ([float("-inf")], "it[0] is -inf"),
            ({"when": datetime.date(2026, 1, 1)}, "it.when is of type date"),
            (b"x", "it is of type bytes"),
            ({(1, 2): 3}, "it has the key (1, 2)"),
            (["\ud800"], "it[0] is text that has no UTF-8"),
            (cycle, "it"),
        ):
            with self.assertRaises(errors.Invalid) as refused:
                encode(value, "it")
            self.assertIn(words, str(refused.exception))

    def test_what_python_does_not_read_costs_only_itself(self) -> None:
        """A number that is too long ended every worker that it was handed to."""
        good, found, more = decode(b'["x",-' + b"1" * 5000 + b',{"a":[1]}]')
        self.assertEqual((good, more), ("x", {"a": [1]}))
        self.assertIsInstance(found, Unreadable)
        with self.assertRaises(errors.Invalid):
            encode([found], "it")
        for broken in (b"[1", b"[" + b"1" * 5000, b""):
            with self.assertRaises(ValueError):
                decode(broken)

    def test_values_are_nested_so_deep_and_no_deeper(self) -> None:
        """Progress nested deeper went into every beat, which the server refuses whole."""
        for value in (nested(1), nested(100), [nested(99)] * 200):
            self.assertEqual(decode(encode(value, "it")), value)
        for levels in (101, 100_000):
            with self.assertRaises(errors.Invalid) as refused:
                encode(nested(levels), "it")
            self.assertEqual(str(refused.exception), "it is nested deeper than 100 levels")

    def test_the_limit_is_of_the_encoded_bytes(self) -> None:
        encode("x" * (VALUE_BYTES_MAX - 2), "it")
        for value in ("x" * (VALUE_BYTES_MAX - 1), "é" * (VALUE_BYTES_MAX // 2)):
            with self.assertRaises(errors.TooLarge):
                encode(value, "it")

    def test_a_failure_is_recorded_whatever_its_text(self) -> None:
        raw = json.loads(wire.failure_json(errors.Failure.of(ValueError("\ud800" + "x" * 10**6))))
        self.assertEqual((raw["kind"], raw["retryable"]), ("ValueError", True))

    def test_a_detail_may_be_any_json(self) -> None:
        """A task that ended with the failure of a child in Rust, whose detail is an object, was given back for ever."""
        child = errors.TaskFailed("task 7", errors.Failure("k", "m", {"code": 7}))
        self.assertEqual(json.loads(wire.failure_json(errors.Failure.of(child)))["detail"], {"code": 7})
        huge = wire.failure_json(errors.Failure("k" * 2_000_000, "é" * 2_000_000, ["x" * 2_000_000]))
        self.assertLess(len(huge), 1 << 20)

    def test_a_detail_nested_too_deeply_is_left_out(self) -> None:
        """With it the server would refuse the failure itself, each time that it is sent."""
        details = [json.loads(wire.failure_json(errors.Failure("k", "m", nested(n)))).get("detail") for n in (100, 101)]
        self.assertEqual(details, [nested(100), None])

    def test_what_is_on_record_is_not_tried_again(self) -> None:
        for error in (errors.Fatal("no"), errors.TimedOut("event"), errors.StepFailed("step"), errors.Conflict("c")):
            self.assertFalse(errors.Failure.of(error).retryable)

    def test_every_kind_of_error_is_a_type(self) -> None:
        kinds = (
            "invalid not_found conflict too_large stale_fence cancelled gone busy full closed unsupported_protocol "
            "corrupt io unauthorized"
        )
        for kind in kinds.split():
            error = errors.Refused.of(kind, "words", "tasks[0].name")
            self.assertIsNot(type(error), errors.Refused)
            self.assertEqual((error.kind, error.field), (kind, "tasks[0].name"))
        self.assertEqual(errors.Refused.of("melted", "words").kind, "melted")


class Delays(unittest.TestCase):
    def delays(self, retry: Retry, chance: float = 0.0) -> list[int]:
        return [retry.delay_ms(failed, lambda: chance) for failed in (1, 2, 3, 4)]

    def test_delays_by_policy(self) -> None:
        self.assertEqual(self.delays(Retry.none()), [0, 0, 0, 0])
        self.assertEqual(self.delays(Retry.fixed(60)), [60_000] * 4)
        self.assertEqual(self.delays(Retry.exponential(1, factor=3, max=10)), [1000, 3000, 9000, 10_000])
        self.assertEqual(self.delays(Retry.fixed(10, jitter=0.5), chance=0.5), [7500] * 4)
        self.assertEqual(self.delays(Retry("fixed", base=600, jitter=0)), [600_000] * 4, "max is for those that grow")

    def test_the_default_is_that_of_the_server(self) -> None:
        self.assertEqual(self.delays(Retry()), [1000, 2000, 4000, 8000])
        self.assertEqual(self.delays(Retry(), chance=1.0), [800, 1600, 3200, 6400])
        self.assertEqual(Retry().delay_ms(100, lambda: 0.0), 300_000)

    def test_a_delay_ends_at_a_day_and_does_not_overflow(self) -> None:
        self.assertEqual(Retry.exponential(30).delay_ms(100_000), 86_400_000)
        self.assertEqual(Retry.fixed(10**9).delay_ms(1), 86_400_000)
        self.assertEqual(Retry.exponential(0, factor=9).delay_ms(10**6), 0)

    def test_bad_numbers_are_refused_where_they_are_written(self) -> None:
        for bad in (-1, float("nan"), float("inf"), "60"):
            with self.assertRaises(errors.Invalid):
                Retry.fixed(bad)  # type: ignore[arg-type]
        with self.assertRaises(errors.Invalid):
            Retry.fixed(1, jitter=2)
        with self.assertRaises(errors.Invalid):
            Retry.exponential(1, factor=0.5)

    def test_spans_and_moments_are_rounded_up(self) -> None:
        self.assertEqual(
            [span_ms(s, "s") for s in (0, 1, 0.0001, 0.3, datetime.timedelta(days=1))], [0, 1000, 1, 300, 86_400_000]
        )
        utc = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
        self.assertEqual(moment_ms(utc, "m"), 1_767_225_600_000)
        with self.assertRaises(errors.Invalid):
            moment_ms(datetime.datetime(2026, 1, 1), "m")


class Recorder:
    """Stands where a worker stands: keeps what a run sends, and acknowledges it unless told otherwise."""

    def __init__(self) -> None:
        self.executor: Executor = ThreadPoolExecutor(2)
        self.sent: list[dict[str, Any]] = []
        self.units: list[list[str]] = []
        self.answers: dict[str, list[Ack]] = {}

    async def send(self, ops: Sequence[Op]) -> Ack:
        unit = [json.loads(op.body) for op in ops]
        self.sent += unit
        self.units.append([sent["op"] for sent in unit])
        await asyncio.sleep(0)
        ack = Ack(None)
        for sent in unit:
            answers = self.answers.get(sent["op"])
            ack = answers.pop(0) if answers else Ack(None)
            if ack.error is not None:
                raise ack.error
        return ack

    def now_ms(self) -> int:
        return 1_000_000

    def note(self, work: Work, step: str | None) -> None: ...

    def progress(self, work: Work, progress: Json | None) -> None: ...

    def keys(self, op: str = "step") -> list[str]:
        return [sent["key"] for sent in self.sent if sent["op"] == op]


def nested(levels: int) -> Any:
    """A value of so many levels, with text in it that looks like more."""
    value: Any = "x"
    for level in range(levels):
        value = {'\\"[{': value, "}": 0} if level % 2 else ["[{\\", value, "{["]
    return value


def step(key: str, value: Any = None, kind: str = "step", **more: Any) -> Step:
    return Step.read({"key": key, "seq": 1, "kind": kind, "status": "done", "value": value, "attempt": 1, **more})


def lost() -> Ack:
    return Ack(errors.StaleFence("the fence has ended"))


class RunCase(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.host = Recorder()

    async def play(self, code: Callable[[Context], Awaitable[Any]], *recorded: Step) -> Any:
        """What ``code`` returns, or Unwind if it was taken off."""
        work = Work("t1", 1, "f1", "code", None, "default", None, {}, [], None)
        self.run_of_task = Run(self.host, work, recorded)
        running = asyncio.ensure_future(code(Context(App("http://unused.invalid"), self.run_of_task)))
        return await asyncio.wait_for(running, 5)


class Replay(RunCase):
    async def test_a_recorded_step_is_not_run(self) -> None:
        async def code(ctx: Context) -> list[Any]:
            return [await ctx.step("a", lambda: "run"), await ctx.step("a", lambda: "run")]

        self.assertEqual(await self.play(code, step("a", "recorded")), ["recorded", "run"])
        self.assertEqual(self.host.keys(), ["a#2"])

    async def test_the_first_run_sees_what_replays_will_see(self) -> None:
        async def code(ctx: Context) -> Any:
            return await ctx.step("a", lambda: {1: (2, 3)})

        self.assertEqual(await self.play(code), {"1": [2, 3]})

    async def test_a_recorded_failure_is_raised_again(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", lambda: 1)

        failed = step("a", status="failed", failure={"kind": "ValueError", "message": "no"})
        with self.assertRaises(errors.StepFailed) as raised:
            await self.play(code, failed)
        self.assertEqual(raised.exception.failure.message, "no")

    async def test_another_kind_under_an_id_is_a_conflict(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", lambda: 1)

        with self.assertRaises(errors.Conflict):
            await self.play(code, step("a", kind="timer"))

    async def test_a_failing_step_without_a_policy_records_nothing(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", int, "x")

        with self.assertRaises(ValueError):
            await self.play(code)
        self.assertEqual(self.host.sent, [])

    async def test_a_step_tries_again_and_records_its_last_failure(self) -> None:
        ran: list[int] = []

        async def body() -> None:
            ran.append(1)
            raise ValueError("no")

        async def code(ctx: Context) -> None:
            await ctx.step("a", body, retry=Retry.none(), max_attempts=3)

        with self.assertRaises(errors.StepFailed):
            await self.play(code)
        self.assertEqual((len(ran), self.host.keys()), (3, ["a"]))
        self.assertEqual(self.host.sent[0]["failure"]["kind"], "ValueError")

    async def test_a_long_pause_is_a_wait_and_counts_attempts_across_it(self) -> None:
        ran: list[int] = []

        def body() -> None:
            ran.append(1)
            raise ValueError("no")

        async def code(ctx: Context) -> None:
            await ctx.step("a", body, retry=Retry.fixed(60), max_attempts=2)

        with self.assertRaises(Unwind):
            await self.play(code)
        self.assertEqual(self.host.sent[-1]["waits"], [{"key": "a/retry:1.1", "kind": "timer", "until_ms": 1_060_000}])
        with self.assertRaises(errors.StepFailed):
            await self.play(code, step("a/retry:1.1", kind="timer", outcome="value"))
        self.assertEqual(len(ran), 2)

    async def test_fatal_ends_the_attempts(self) -> None:
        async def body() -> None:
            raise errors.Fatal("never")

        async def code(ctx: Context) -> None:
            await ctx.step("a", body, max_attempts=9)

        with self.assertRaises(errors.StepFailed):
            await self.play(code)

    async def test_a_timed_out_event_is_raised_again_or_its_default(self) -> None:
        async def code(ctx: Context) -> Any:
            self.assertEqual(await ctx.event("e", timeout=1, default="nothing"), "nothing")
            await ctx.event("e", timeout=1)

        outcomes = [step(key, kind="event", outcome="timed_out") for key in ("event:e", "event:e#2")]
        with self.assertRaises(errors.TimedOut):
            await self.play(code, *outcomes)
        self.assertEqual(self.host.sent, [])

    async def test_a_child_is_found_again(self) -> None:
        async def code(ctx: Context) -> Any:
            child = await ctx.spawn("sub", 1)
            return [child.id, await child.result(), await child.result()]

        recorded = step("spawn:sub", "t2", kind="spawn"), step("spawn:sub/result", 5, kind="task", outcome="value")
        self.assertEqual(await self.play(code, *recorded), ["t2", 5, 5])

    async def test_map_items_have_scopes_of_their_own(self) -> None:
        async def book(ctx: Context, sku: str) -> str:
            return f"{await ctx.step('book', str.upper, sku)} {ctx.key('book')}"

        async def code(ctx: Context) -> Any:
            return [await ctx.map("ship", ["x/1", "y"], book, limit=1), await ctx.map("ship", ["x"], book)]

        wanted = [["X/1 t1/ship/x%2F1/book#2", "Y t1/ship/y/book#2"], ["X t1/ship#2/x/book#2"]]
        self.assertEqual(await self.play(code), wanted)
        self.assertEqual(self.host.keys(), ["ship/x%2F1/book", "ship/y/book", "ship#2/x/book"])

    async def test_map_refuses_two_items_of_one_key_and_stops_at_a_failure(self) -> None:
        async def same(ctx: Context) -> None:
            await ctx.map("m", [1, 1], lambda ctx, n: asyncio.sleep(0))

        with self.assertRaises(errors.Invalid):
            await self.play(same)
        stopped: list[int] = []

        async def item(ctx: Context, n: int) -> int:
            if n == 0:
                raise ValueError("first")
            try:
                return await asyncio.sleep(0, n) if n == 1 else await asyncio.sleep(60, n)
            except asyncio.CancelledError:
                stopped.append(n)
                raise

        async def fail_fast(ctx: Context) -> Any:
            return await ctx.map("m", [1, 2, 0], item)

        with self.assertRaises(ValueError):
            await self.play(fail_fast)
        self.assertEqual(stopped, [2])

        async def collect(ctx: Context) -> Any:
            return await ctx.map("m", [1, 0], item, collect=True)

        one, failed = await self.play(collect)
        self.assertEqual((one, type(failed)), (1, ValueError))

    async def test_names_that_depend_on_chance_are_refused(self) -> None:
        async def code(ctx: Context) -> None:
            await asyncio.gather(ctx.step("a", asyncio.sleep, 0.01), ctx.step("a", asyncio.sleep, 0.01))

        with self.assertRaises(errors.AmbiguousStep):
            await self.play(code)

    async def test_a_step_has_no_durable_call_inside(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", ctx.sleep, 1)

        with self.assertRaises(errors.Invalid):
            await self.play(code)


class Suspending(RunCase):
    async def test_after_a_suspension_every_call_raises_again(self) -> None:
        seen: list[str] = []

        async def code(ctx: Context) -> None:
            for call in (
                lambda: ctx.sleep("nap", 60),
                lambda: ctx.step("a", seen.append, "harm"),
                lambda: ctx.event("e"),
                lambda: ctx.spawn("sub"),
                lambda: ctx.emit("e"),
                lambda: ctx.begin_step("b"),
                lambda: ctx.heartbeat(),
            ):
                try:
                    await call()
                    seen.append("returned")
                except BaseException as error:
                    seen.append(type(error).__name__)

        await self.play(code)
        self.assertEqual(seen, ["Unwind"] * 7)
        waits = [{"key": "nap", "kind": "timer", "until_ms": 1_060_000}]
        self.assertEqual(self.host.sent, [{"op": "suspend", "task": "t1", "fence": "f1", "waits": waits}])
        self.assertEqual(self.run_of_task.ended, "suspended")

    async def test_a_lost_fence_is_not_seen_as_an_error(self) -> None:
        self.host.answers["step"] = [lost()]

        async def code(ctx: Context) -> None:
            try:
                await ctx.step("a", lambda: 1)
            except Exception:
                self.fail("task code has caught it")

        with self.assertRaises(Unwind):
            await self.play(code)

    async def test_branches_suspend_together_and_not_under_a_step(self) -> None:
        async def code(ctx: Context) -> None:
            await asyncio.gather(
                ctx.sleep("a", 1), ctx.event("e", timeout=2), ctx.step("s", asyncio.sleep, 0.05), ctx.sleep("b", 3)
            )

        with self.assertRaises(Unwind):
            await self.play(code)
        self.assertEqual([sent["op"] for sent in self.host.sent], ["step", "suspend"])
        self.assertEqual([wait["key"] for wait in self.host.sent[1]["waits"]], ["a", "event:e", "b"])

    async def test_what_is_over_already_goes_on_without_unwinding(self) -> None:
        self.host.answers["suspend"] = [Ack(None, [Step.read({"key": "event:e", "outcome": "value", "value": 7})])]

        async def code(ctx: Context) -> Any:
            return await ctx.event("e") + await ctx.step("s", lambda: 1)

        self.assertEqual(await self.play(code), 8)

    async def test_the_winner_goes_on_and_the_loser_can_be_dropped(self) -> None:
        async def code(ctx: Context) -> Any:
            event, alarm = asyncio.ensure_future(ctx.event("e")), asyncio.ensure_future(ctx.sleep("alarm", 60))
            done, pending = await asyncio.wait({event, alarm}, return_when=asyncio.FIRST_COMPLETED)
            for each in pending:
                each.cancel()
            return await ctx.step("s", lambda: event in done)

        self.assertTrue(await self.play(code, step("event:e", 1, kind="event", outcome="value")))
        self.assertEqual([sent["op"] for sent in self.host.sent], ["step"])

    async def test_the_rest_waits_on_when_one_branch_has_ended(self) -> None:
        self.host.answers["suspend"] = [Ack(None, [Step.read({"key": "a", "outcome": "value"})])]

        async def code(ctx: Context) -> Any:
            await asyncio.gather(ctx.sleep("a", 1), ctx.sleep("b", 60))

        with self.assertRaises(Unwind):
            await self.play(code)
        self.assertEqual([[w["key"] for w in sent["waits"]] for sent in self.host.sent], [["a", "b"], ["b"]])

    async def test_a_refused_suspension_is_an_error_of_the_wait(self) -> None:
        self.host.answers["suspend"] = [Ack(errors.Invalid("no such wait"))]

        async def code(ctx: Context) -> Any:
            with self.assertRaises(errors.Invalid):
                await ctx.sleep(1)
            return "went on"

        self.assertEqual(await self.play(code), "went on")


class MayRerun(RunCase):
    """What is held back goes with the next operation."""

    async def test_it_goes_in_order_with_whatever_is_next(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", lambda: 1, may_rerun=True)
            turn = await ctx.begin_step("b")
            self.assertEqual(await ctx.complete_step(turn, (2,), may_rerun=True), [2])
            self.assertEqual(self.host.sent, [])
            await ctx.step("c", lambda: 3)
            await ctx.step("d", lambda: 4, may_rerun=True)
            await ctx.spawn("sub")
            await ctx.step("e", lambda: 5, may_rerun=True)
            await ctx.emit("soon")
            await ctx.step("f", lambda: 6, may_rerun=True)
            await ctx.sleep(60)

        with self.assertRaises(Unwind):
            await self.play(code)
        wanted = [["step"] * 3, ["step", "spawn"], ["step", "emit"], ["step", "suspend"]]
        self.assertEqual((self.host.units, self.host.keys()), (wanted, ["a", "b", "c", "d", "e", "f"]))

    async def test_beyond_16_or_1_mib_it_is_recorded_at_once(self) -> None:
        async def many(ctx: Context) -> None:
            for n in range(18):
                await ctx.step("s", lambda n=n: n, may_rerun=True)

        await self.play(many)
        self.assertEqual(self.host.units, [["step"] * 17])
        self.assertTrue(self.run_of_task.holds_back)
        self.host.units.clear()

        async def large(ctx: Context) -> None:
            for size in (VALUE_BYTES_MAX - 102, 98, 1):  # and their quotes: 1 MiB, and 3 bytes more
                await ctx.step("s", lambda size=size: "x" * size, may_rerun=True)

        await self.play(large)
        self.assertEqual(self.host.units, [["step"] * 3])
        self.host.units.clear()

        async def exactly(ctx: Context) -> None:
            await ctx.step("s", lambda: "x" * (VALUE_BYTES_MAX - 2), may_rerun=True)

        await self.play(exactly)
        self.assertEqual(self.host.units, [])

    async def test_what_cannot_be_recorded_and_what_has_failed_says_so_at_once(self) -> None:
        async def code(ctx: Context) -> None:
            with self.assertRaises(errors.Invalid):
                await ctx.step("a", lambda: float("nan"), may_rerun=True)
            with self.assertRaises(errors.TooLarge):
                await ctx.step("b", lambda: "x" * VALUE_BYTES_MAX, may_rerun=True)
            with self.assertRaises(errors.StepFailed):
                await ctx.step("c", int, "x", max_attempts=1, may_rerun=True)

        await self.play(code)
        self.assertEqual(self.host.keys(), ["c"])

    async def test_a_refusal_is_told_by_the_call_that_carried_it_and_then_it_is_dropped(self) -> None:
        self.host.answers["step"] = [Ack(errors.Conflict("recorded with another value"))]

        async def code(ctx: Context) -> None:
            await ctx.step("a", lambda: 1, may_rerun=True)
            with self.assertRaises(errors.Conflict):
                await ctx.sleep(60)
            await ctx.step("b", lambda: 2)

        await self.play(code)
        self.assertEqual(self.host.units, [["step", "suspend"], ["step"]])

    async def test_a_call_that_is_cancelled_takes_it_along(self) -> None:
        async def code(ctx: Context) -> None:
            await ctx.step("a", lambda: 1, may_rerun=True)
            emitting = asyncio.ensure_future(ctx.emit("soon"))
            await asyncio.sleep(0)
            emitting.cancel()

        await self.play(code)
        self.assertEqual(self.host.units, [["step", "emit"]])


class Sending(unittest.IsolatedAsyncioTestCase):
    """The lane of operations."""

    async def asyncSetUp(self) -> None:
        self.posted: list[list[str]] = []
        self.answers: list[Callable[[str], Ack] | Exception] = []
        self.lane = Lane(self.post)
        self.addCleanup(self.lane.close)

    async def post(self, ops: Any) -> list[Ack]:
        self.posted.append([op.body.decode() for op in ops])
        await asyncio.sleep(0.01)
        answer = self.answers.pop(0) if self.answers else (lambda body: Ack(None))
        if isinstance(answer, Exception):
            raise answer
        return [answer(body) for body in self.posted[-1]]

    async def send(self, *names: str) -> list[Any]:
        ops = [Op(name[0], Json(name.encode())) for name in names]
        return await asyncio.gather(*(self.lane.send([op]) for op in ops), return_exceptions=True)

    async def test_what_comes_together_goes_together(self) -> None:
        await self.send("a1", "b1", "a2")
        self.assertEqual(self.posted, [["a1", "b1", "a2"]])

    async def test_what_got_no_answer_is_sent_again(self) -> None:
        self.answers = [errors.Unreachable("reset"), errors.Closed("stopping")]
        self.assertEqual(await self.send("a1"), [Ack(None)])
        self.assertEqual(self.posted, [["a1"]] * 3)

    async def test_a_refused_request_harms_only_who_is_to_blame(self) -> None:
        self.answers = [errors.Invalid("one of them"), errors.Invalid("a1")]
        a, b = await self.send("a1", "b1")
        self.assertEqual((str(a), b), ("a1", Ack(None)))

    async def test_an_operation_behind_a_refused_one_gets_its_own_verdict(self) -> None:
        self.answers = [lambda body: Ack(errors.Invalid(body)) if body[0] == "a" else Ack(None)]
        first, second, other = await self.send("a1", "a2", "b1")
        self.assertEqual((str(first), second, other), ("a1", Ack(None), Ack(None)))
        self.assertEqual(self.posted, [["a1", "a2", "b1"], ["a2"]])

    async def test_busy_is_tried_again(self) -> None:
        self.answers = [lambda body: Ack(errors.Busy("later"))]
        self.assertEqual(await self.send("a1"), [Ack(None)])

    async def test_an_operation_waits_for_an_earlier_one_that_is_to_be_sent_again(self) -> None:
        """It overtook it in the pause, so that a suspension could leave a step behind."""
        self.answers = [lambda body: Ack(errors.Busy(body)) if body[0] == "a" else Ack(None)]
        first = asyncio.ensure_future(self.send("a1", "a2", "b1"))
        await asyncio.sleep(0.02)
        self.assertEqual(await self.send("a3", "b2"), [Ack(None)] * 2)
        self.assertEqual(await first, [Ack(None)] * 3)
        self.assertEqual(self.posted, [["a1", "a2", "b1"], ["b2"], ["a1", "a2", "a3"]])

    async def test_what_is_given_together_has_one_answer(self) -> None:
        unit = [Op("a", Json(name)) for name in (b"a1", b"a2", b"a3")]
        refused = lambda body: Ack(errors.Conflict(body)) if body > "a1" else Ack(None, id=body)  # noqa: E731
        self.answers = [errors.Unreachable("reset"), lambda body: Ack(errors.Busy("later"))]
        self.answers += [lambda body: Ack(None, id=body), refused]
        self.assertEqual(await self.lane.send(unit), Ack(None, id="a3"))
        with self.assertRaises(errors.Conflict) as conflict:
            await self.lane.send(unit)
        self.assertEqual((str(conflict.exception), self.posted), ("a2", [["a1", "a2", "a3"]] * 4))

    async def test_a_request_has_its_bounds(self) -> None:
        units = [[Op(f"{task}", Json(b"x"))] * 17 for task in range(16)]
        units += [[Op(f"large {task}", Json(b"x" * (5 << 20)))] for task in range(3)]
        await asyncio.gather(*(self.lane.send(unit) for unit in units))
        self.assertEqual([len(ops) for ops in self.posted], [255, 17 + 1, 1, 1])

    async def test_after_its_close_nothing_is_sent(self) -> None:
        """An operation in its pause began to be sent again for ever."""
        self.answers = [lambda body: Ack(errors.Busy("later"))]
        sending = asyncio.ensure_future(self.send("a1"))
        await asyncio.sleep(0.05)
        self.lane.close()
        (ended,) = await sending
        self.assertIsInstance(ended, asyncio.CancelledError)
        with self.assertRaises(asyncio.CancelledError):
            await self.lane.send([Op("a", Json(b"a2"))])
        await asyncio.sleep(0.2)
        self.assertEqual(self.posted, [["a1"]])


class Saying(unittest.TestCase):
    """What a worker says of itself and of what it holds."""

    def test_a_beat_that_would_be_too_large_leaves_out_progress(self) -> None:
        shown = encode("x" * ((64 << 10) - 2), "progress")
        live = {f"task {n}": Live(f"fence {n}", "a step", shown) for n in range(300)}
        body = wire.beat("s", live).body
        assert body is not None
        self.assertLess(len(body), 16 << 20)
        said = json.loads(body)["live"]
        self.assertEqual([(each["task"], each["step"]) for each in said], [(task, "a step") for task in live])
        self.assertEqual(sum("progress" in each for each in said), 239)

    def test_a_version_is_told_where_there_is_one(self) -> None:
        app = App("http://localhost:1")

        @app.task(version="2026-11")
        async def new(ctx: Context, _: None) -> None: ...

        @app.task()
        async def plain(ctx: Context, _: None) -> None: ...

        versions = {task.name: task.version for task in app.tasks.values()}
        body = wire.hello("w", "sdk", versions, ["q"], 1, {}).body
        assert body is not None
        self.assertEqual(json.loads(body)["tasks"], [{"name": "new", "version": "2026-11"}, {"name": "plain"}])
        with self.assertRaises(errors.Invalid):
            app.task(version=2)  # type: ignore[arg-type]
        raw = {"task": "t", "attempt": 1, "fence": "f", "name": "new", "queue": "q"}
        found = [Work.read({**raw, **more}).version for more in ({}, {"version": None}, {"version": "2026-11"})]
        self.assertEqual(found, [None, None, "2026-11"])


class Apps(unittest.IsolatedAsyncioTestCase):
    def spawned(self, app: App, task: Any, input: Any = None, **options: Any) -> dict[str, Any]:
        id, encoded = app._spawn_json(task, input, options)  # type: ignore[arg-type]
        spawn: dict[str, Any] = json.loads(encoded)
        self.assertEqual(spawn.pop("id"), id)
        return spawn

    def test_the_address_comes_from_the_call_then_the_environment(self) -> None:
        with unittest.mock.patch.dict(os.environ, clear=True):
            self.assertEqual(App()._endpoint.url, "http://127.0.0.1:8080")
            os.environ["CAIRN_URL"] = "http://there:1"
            self.assertEqual(
                [App()._endpoint.url, App("http://here:1")._endpoint.url], ["http://there:1", "http://here:1"]
            )

    def test_options_come_from_the_call_then_the_registration(self) -> None:
        app = App("http://localhost:1", queue="q")

        @app.task("send mail", queue="mail", max_attempts=3, retry=Retry.fixed(5))
        async def send(ctx: Context, to: str) -> None: ...

        plain = {"queue": "q", "name": "x", "input": None}
        self.assertEqual(self.spawned(app, "x"), plain)
        both = self.spawned(app, send, "ada", max_attempts=1, key="k", delay=1.5, tags={"tenant": "acme"}, priority=2)
        self.assertEqual(
            both["retry"], {"kind": "fixed", "base_ms": 5000, "factor": 2.0, "max_ms": 86_400_000, "jitter": 0.0}
        )
        del both["retry"]
        wanted = {"queue": "mail", "name": "send mail", "input": "ada", "max_attempts": 1, "idempotency_key": "k"}
        self.assertEqual(both, {**wanted, "delay_ms": 1500, "tags": {"tenant": "acme"}, "priority": 2})
        self.assertEqual(self.spawned(app, "send mail")["queue"], "mail")

    def test_options_that_make_no_sense_are_refused(self) -> None:
        app = App("http://localhost:1")
        with self.assertRaises(TypeError):
            self.spawned(app, "x", idempotency="k")
        with self.assertRaises(errors.Invalid):
            self.spawned(app, "x", delay=1, due=2)
        with self.assertRaises(errors.Invalid):
            App("localhost:8080")
        with self.assertRaises(errors.Invalid):
            app.task()(lambda ctx, input: None)  # type: ignore[arg-type, return-value]

    def test_hooks_pass_every_spawn(self) -> None:
        app = App("http://localhost:1")

        @app.before_spawn
        def inject(name: str, input: Any, options: cairn.SpawnOptions) -> cairn.SpawnOptions:
            return {**options, "headers": {"trace": name}}

        self.assertEqual(self.spawned(app, "x")["headers"], {"trace": "x"})

    async def test_a_worker_that_nobody_answers_gives_up(self) -> None:
        """It waited for ever, and its heartbeat with it."""
        with unittest.mock.patch("cairn.pulse._ATTACH_S", 0.5):
            with self.assertRaises(errors.Unreachable):
                await App("http://127.0.0.1:9").worker().run()
            with self.assertRaises(errors.Unreachable):
                async with App("http://127.0.0.1:9").worker():
                    self.fail("nobody has answered")
        for thread in threading.enumerate():
            if isinstance(thread, Pulse):
                await asyncio.to_thread(thread.join, 5)
                self.assertFalse(thread.is_alive())

    async def test_a_worker_that_is_not_waited_for_leaves_nothing_behind(self) -> None:
        others = asyncio.all_tasks()
        entering = asyncio.ensure_future(App("http://127.0.0.1:9").worker().__aenter__())
        await asyncio.sleep(0.1)
        entering.cancel()
        await asyncio.wait({entering}, timeout=5)
        self.assertTrue(entering.cancelled())
        self.assertEqual(asyncio.all_tasks() - others, set())

    async def test_a_server_out_of_reach_is_said_so(self) -> None:
        async with App("http://127.0.0.1:9") as app:
            with self.assertRaises(errors.Unreachable):
                await app.handle("t").info()


class Documents(unittest.TestCase):
    def test_the_program_of_the_readme_is_the_quickstart(self) -> None:
        sdk = Path(__file__).parent.parent
        program = (sdk / "README.md").read_text().split("```python\n")[1].split("```")[0]
        self.assertEqual(program, (sdk / "examples/quickstart.py").read_text())


if __name__ == "__main__":
    unittest.main()
