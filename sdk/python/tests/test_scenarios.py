"""The scenarios of the model system (Absurd), in its 16 groups, against a real server on its virtual clock.

A class is a group and a test a scenario; where ours is another on purpose, its docstring says "differs:" and the test
shows our way. What does not reach an SDK is tested elsewhere: transitions, fences and budgets (groups 5 to 8, 11 to 13)
command by command in ``crates/durable`` (``src/machine/tests.rs``, ``tests/tasks.rs``), claims and events on the disk
(4, 10) in its ``tests/tasks.rs``, power cuts and repeated calls in its ``tests/simulation.rs``, the buckets of the
cleanup (14) in its ``tests/retention.rs``, and the command line (16) in ``crates/cli/tests``. Storage modes,
partitions, cron jobs of a database and migrations have no counterpart here.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import time
import unittest
from typing import Any

import cairn
from cairn import App, Cancel, Context, Retry

from support import ServerCase, needs_patience, needs_server

UNKNOWN = "0190b2a4-0000-7000-8000-000000000000"


@needs_server
class SpawnClaimComplete(ServerCase):
    """1. A task is spawned, claimed and completed."""

    async def test_a_task_runs_and_its_result_is_kept(self) -> None:
        @self.app.task()
        async def double(ctx: Context, n: int) -> int:
            return 2 * n

        async with self.app.worker():
            handle = await self.app.spawn(double, 21)
            self.assertTrue(handle.created)
            self.assertEqual(await handle.result(timeout=10), 42)
        self.assertEqual(await handle.status(), "completed")
        info = await handle.info()
        self.assertEqual((info["name"], info["queue"], info["attempt"]), ("double", self.app.queue, 1))

    async def test_the_history_says_what_came_of_each_run(self) -> None:
        """differs: the runs say when, not who: workers and their leases live in memory."""

        @self.app.task(retry=Retry.none())
        async def second_time(ctx: Context, _: None) -> None:
            if ctx.attempt == 1:
                raise ValueError("first")

        async with self.app.worker():
            handle = await self.app.spawn(second_time, None)
            await handle.result(timeout=10)
        runs = (await self.get(f"/v1/tasks/{handle.id}/runs"))["items"]
        self.assertEqual([(run["attempt"], run["status"]) for run in runs], [(1, "failed"), (2, "done")])
        self.assertEqual(runs[0]["failure"]["message"], "first")
        for run in runs:
            self.assertLessEqual(run["started_at_ms"], run["ended_at_ms"])


@needs_server
class Lifecycle(ServerCase):
    """2. Every status can be asked for."""

    async def test_every_status_can_be_seen(self) -> None:
        go = asyncio.Event()

        @self.app.task()
        async def walk(ctx: Context, fail: bool) -> str:
            await go.wait()
            await ctx.event(f"go {fail}")
            if fail:
                raise cairn.Fatal("as asked")
            return "there"

        good, bad = await self.app.spawn(walk, False), await self.app.spawn(walk, True)
        self.assertEqual(await good.status(), "queued")
        async with self.app.worker():
            await self.until(good.status, "running")
            go.set()
            await self.until(good.status, "waiting")
            await self.until(bad.status, "waiting")
            with self.assertRaises(TimeoutError):
                await good.result(timeout=0.05)
            for fail in (True, False):
                await self.app.emit(f"go {fail}")
            self.assertEqual(await good.result(timeout=10), "there")
            with self.assertRaises(cairn.TaskFailed) as failed:
                await bad.result(timeout=10)
        self.assertEqual((failed.exception.failure.kind, failed.exception.failure.message), ("Fatal", "as asked"))
        with self.assertRaises(cairn.NotFound):
            await self.app.handle("0190b2a4-0000-7000-8000-000000000000").status()


@needs_server
class Idempotency(ServerCase):
    """3. One key is one task."""

    async def test_one_key_is_one_task(self) -> None:
        runs = []

        @self.app.task()
        async def once(ctx: Context, n: int) -> int:
            runs.append(n)
            return n

        first = await self.app.spawn(once, 1, key="k")
        again, other_name = await self.app.spawn(once, 2, key="k"), await self.app.spawn("another", 3, key="k")
        async with self.app.worker():
            self.assertEqual(await again.result(timeout=10), 1)
            after = await self.app.spawn(once, 4, key="k")
            other_key = await self.app.spawn(once, 5, key="l")
            await other_key.result(timeout=10)
        self.assertEqual([h.id == first.id for h in (again, other_name, after, other_key)], [True] * 3 + [False])
        self.assertEqual([h.created for h in (first, again, after)], [True, False, False])
        self.assertEqual(runs, [1, 5])
        await self.app.make_queue(f"{self.app.queue}-other")
        elsewhere = await self.app.spawn(once, 6, key="k", queue=f"{self.app.queue}-other")
        self.assertNotEqual(elsewhere.id, first.id)

    async def test_one_id_is_one_task(self) -> None:
        first = await self.app.spawn("any", 1)
        again = await self.app.spawn("any", 1, id=first.id)
        self.assertEqual((again.id, again.created), (first.id, False))

    async def test_a_key_holds_for_weeks_and_is_free_after_the_cleanup(self) -> None:
        @self.app.task()
        async def once(ctx: Context, _: None) -> None: ...

        async with self.app.worker():
            first = await self.app.spawn(once, None, key="k")
            await first.result(timeout=10)
            await self.clock.advance(8 * 86400)
            self.assertEqual((await self.app.spawn(once, None, key="k")).id, first.id)
            await self.clock.advance(40 * 86400)  # a queue keeps for 30 days unless told otherwise

            async def made() -> bool | None:
                return (await self.app.spawn(once, None, key="k")).created

            await self.until(made, True)


@needs_server
class BatchClaims(ServerCase):
    """4. Claims are in order, and nothing is claimed twice."""

    async def test_priority_and_delay_decide_the_order(self) -> None:
        order: list[str] = []

        @self.app.task()
        async def say(ctx: Context, word: str) -> None:
            order.append(word)

        late = await self.app.spawn(say, "late", delay=60)
        handles = [await self.app.spawn(say, "second"), await self.app.spawn(say, "first", priority=5)]
        async with self.app.worker(slots=1):
            for handle in handles:
                await handle.result(timeout=10)
            self.assertEqual(await late.status(), "queued")
            await self.clock.advance(61)
            await late.result(timeout=10)
        self.assertEqual(order, ["first", "second", "late"])

    async def test_two_workers_never_run_the_same_task(self) -> None:
        ran: list[int] = []

        @self.app.task()
        async def once(ctx: Context, n: int) -> None:
            ran.append(n)

        async with self.app.worker(slots=5), self.app.worker(slots=5):
            handles = [await self.app.spawn(once, n) for n in range(100)]
            for handle in handles:
                await handle.result(timeout=20)
        self.assertEqual(sorted(ran), list(range(100)))


@needs_server
@needs_patience
class LeaseExpiry(ServerCase):
    """5. A worker that is silent loses its tasks."""

    async def test_a_killed_worker_costs_a_lease_and_no_attempt(self) -> None:
        """differs: the attempt is not spent. It is counted as lost, which has a budget of its own."""
        handle = await self.app.spawn("hold", 3600)
        worker = self.start_worker()
        await asyncio.to_thread(worker.stdout.readline)
        worker.kill()

        @self.app.task()
        async def hold(ctx: Context, _: float) -> int:
            return ctx.attempt

        async with self.app.worker():
            self.assertEqual(await handle.result(timeout=60), 1)
        self.assertEqual((await handle.info())["lost"], 1)

    async def test_a_worker_that_comes_back_late_does_no_harm(self) -> None:
        """Its finish is refused for its fence, and it goes on working."""
        handle = await self.app.spawn("hold", 35)
        worker = self.start_worker()
        await asyncio.to_thread(worker.stdout.readline)
        worker.send_signal(signal.SIGSTOP)

        @self.app.task()
        async def hold(ctx: Context, seconds: float) -> str:
            return "another's"

        async with self.app.worker():
            self.assertEqual(await handle.result(timeout=60), "another's")
        worker.send_signal(signal.SIGCONT)
        later = await self.app.spawn("hold", 0)
        self.assertIsNone(await later.result(timeout=30))
        self.assertEqual((await handle.info())["output"], "another's")


@needs_server
class Heartbeats(ServerCase):
    """6. A task lives for as long as its worker does."""

    async def test_a_cancellation_comes_with_a_heartbeat(self) -> None:
        """differs: a heartbeat takes no span, because the lease is the worker's and the server's to size. It shows
        progress, and lets a cancellation in at once."""
        beats: list[int] = []

        @self.app.task()
        async def count(ctx: Context, _: None) -> None:
            while True:
                await ctx.heartbeat({"beats": len(beats)})
                beats.append(1)
                await asyncio.sleep(0.05)

        async with self.app.worker(drain=0):
            handle = await self.app.spawn(count, None)
            await self.until(lambda: asyncio.sleep(0, len(beats) > 3), True)
            await handle.cancel()
            await asyncio.sleep(1)
            so_far = len(beats)
            await asyncio.sleep(0.5)
            self.assertEqual(len(beats), so_far)

    async def test_progress_has_its_limit(self) -> None:
        @self.app.task(max_attempts=1)
        async def boast(ctx: Context, _: None) -> None:
            await ctx.heartbeat("x" * 60_000)
            await ctx.heartbeat("x" * 65_535)

        async with self.app.worker():
            with self.assertRaises(cairn.TaskFailed) as failed:
                await (await self.app.spawn(boast, None)).result(timeout=10)
        failure = failed.exception.failure
        self.assertEqual(failure.kind, "TooLarge")
        self.assertIn("progress has 65,537 bytes as JSON; the limit is 65,536", failure.message)

    async def test_values_are_nested_as_deep_as_the_server_takes(self) -> None:
        def nested(levels: int) -> list[Any]:
            return [nested(levels - 1)] if levels > 1 else []

        @self.app.task(max_attempts=1)
        async def dig(ctx: Context, pit: list[Any]) -> list[Any]:
            self.assertEqual(pit, nested(100))
            await ctx.heartbeat(pit)
            for refused in (ctx.step("too deep", nested, 101), ctx.heartbeat(nested(101))):
                with self.assertRaisesRegex(cairn.Invalid, "is nested deeper than 100 levels"):
                    await refused
            await ctx.sleep(0.01)  # comes back with what is recorded
            return await ctx.step("dig", nested, 100)

        async with self.app.worker():
            handle = await self.app.spawn(dig, nested(100))
            self.assertEqual(await handle.result(timeout=10), nested(100))

    @needs_patience
    async def test_a_task_that_blocks_its_worker_outlives_the_lease(self) -> None:
        @self.app.task(max_attempts=1)
        async def block(ctx: Context, seconds: float) -> int:
            time.sleep(seconds)  # noqa: ASYNC251
            return ctx.attempt

        async with self.app.worker(slots=2):
            handle = await self.app.spawn(block, 40.0)
            self.assertEqual(await handle.result(timeout=60), 1)
        self.assertEqual((await handle.info())["lost"], 0)


@needs_server
class Retrying(ServerCase):
    """7. Failed attempts are followed by others, when the policy says so."""

    async def test_attempts_follow_the_policy_and_end(self) -> None:
        @self.app.task(retry=Retry.exponential(10, factor=3, max=60), max_attempts=4)
        async def fail(ctx: Context, _: None) -> None:
            raise ValueError(f"attempt {ctx.attempt}")

        async with self.app.worker():
            handle = await self.app.spawn(fail, None)
            for attempt, delay in ((1, 10), (2, 30), (3, 60)):
                await self.until(lambda: self.attempt_and_status(handle), (attempt + 1, "queued"))
                await self.clock.advance(delay - 2)
                await asyncio.sleep(0.1)
                self.assertEqual(await self.attempt_and_status(handle), (attempt + 1, "queued"), "too early")
                await self.clock.advance(3)
            with self.assertRaises(cairn.TaskFailed) as failed:
                await handle.result(timeout=10)
        self.assertEqual((failed.exception.failure.kind, failed.exception.failure.message), ("ValueError", "attempt 4"))

    async def attempt_and_status(self, handle: cairn.Handle[Any]) -> tuple[int, str]:
        info = await handle.info()
        return info["attempt"], info["status"]

    async def test_the_spawn_decides_before_the_registration(self) -> None:
        attempts: list[int] = []

        @self.app.task(retry=Retry.none(), max_attempts=3)
        async def fail(ctx: Context, _: None) -> None:
            attempts.append(ctx.attempt)
            raise ValueError

        async with self.app.worker():
            for options, wanted in ((cairn.SpawnOptions(), [1, 2, 3]), (cairn.SpawnOptions(max_attempts=2), [1, 2])):
                attempts.clear()
                with self.assertRaises(cairn.TaskFailed):
                    await (await self.app.spawn("fail", None, **options)).result(timeout=10)
                self.assertEqual(attempts, wanted)

    async def test_without_a_policy_delays_grow_from_a_second(self) -> None:
        """differs: there an unstated policy means at once. Ours is exponential, from 1 s to 5 minutes."""

        @self.app.task(max_attempts=3)
        async def fail(ctx: Context, _: None) -> None:
            raise ValueError

        async with self.app.worker():
            handle = await self.app.spawn(fail, None)
            for attempt, most in ((2, 1000), (3, 2000)):
                await self.until(lambda: self.attempt_and_status(handle), (attempt, "queued"))
                info = await handle.info()
                self.assertGreater(info["due_at_ms"], info["created_at_ms"])
                self.assertLessEqual(info["due_at_ms"], self.app.now_ms() + most)
                await self.clock.advance(most / 1000)
            with self.assertRaises(cairn.TaskFailed):
                await handle.result(timeout=10)
        self.assertEqual((await handle.info())["attempt"], 3)

    async def test_a_fixed_delay_stays_the_same(self) -> None:
        @self.app.task(retry=Retry.fixed(30), max_attempts=4)
        async def fail(ctx: Context, _: None) -> None:
            raise ValueError

        async with self.app.worker():
            handle = await self.app.spawn(fail, None)
            for attempt in (2, 3, 4):
                await self.until(lambda: self.attempt_and_status(handle), (attempt, "queued"))
                await self.clock.advance(28)
                await asyncio.sleep(0.1)
                self.assertEqual(await self.attempt_and_status(handle), (attempt, "queued"), "too early")
                await self.clock.advance(3)
            with self.assertRaises(cairn.TaskFailed):
                await handle.result(timeout=10)

    async def test_a_failure_of_any_size_is_told(self) -> None:
        """The server refused one whose kind is long, and the task stayed running for as long as the worker lived."""
        huge = type("Huge" * 300_000, (Exception,), {})

        @self.app.task(max_attempts=1)
        async def fail(ctx: Context, _: None) -> None:
            raise huge("\ud800" + "x" * 2_000_000)

        async with self.app.worker():
            with self.assertRaises(cairn.TaskFailed):
                await (await self.app.spawn(fail, None)).result(timeout=10)

    async def test_an_output_that_is_too_large_fails_the_attempt(self) -> None:
        @self.app.task(retry=Retry.none(), max_attempts=2)
        async def big(ctx: Context, size: int) -> str:
            return "x" * size

        async with self.app.worker():
            with self.assertRaises(cairn.TaskFailed) as failed:
                await (await self.app.spawn(big, 2 << 20)).result(timeout=10)
            self.assertEqual(len(await (await self.app.spawn(big, (1 << 20) - 2)).result(timeout=10)), (1 << 20) - 2)
        failure = failed.exception.failure
        self.assertEqual(failure.kind, "TooLarge")
        self.assertIn('the output of task "big" has 2,097,154 bytes as JSON', failure.message)

    async def test_what_cannot_succeed_is_not_tried_again(self) -> None:
        """differs: there every failure is tried again. ``Fatal`` and what is on record are not."""

        @self.app.task(max_attempts=5)
        async def fail(ctx: Context, _: None) -> None:
            raise cairn.Fatal("never")

        async with self.app.worker():
            handle = await self.app.spawn(fail, None)
            with self.assertRaises(cairn.TaskFailed):
                await handle.result(timeout=10)
        self.assertEqual((await handle.info())["attempt"], 1)


@needs_server
class Checkpoints(ServerCase):
    """8. What is recorded is not run again."""

    async def test_finished_steps_are_not_run_again(self) -> None:
        ran: list[str] = []

        def note(what: str) -> str:
            ran.append(what)
            if what == "b" and ran.count("b") == 1:
                raise ValueError("b fails once")
            return what

        @self.app.task(retry=Retry.none())
        async def three(ctx: Context, _: None) -> list[str]:
            return [await ctx.step("s", note, what) for what in "abc"]

        async with self.app.worker():
            self.assertEqual(await (await self.app.spawn(three, None)).result(timeout=10), ["a", "b", "c"])
        self.assertEqual(ran, ["a", "b", "b", "c"])

    async def test_a_step_in_two_halves(self) -> None:
        ran: list[int] = []

        @self.app.task(retry=Retry.none())
        async def loop(ctx: Context, _: None) -> list[Any]:
            values = []
            for n in range(3):
                turn = await ctx.begin_step("turn")
                if not turn.done:
                    ran.append(n)
                    await ctx.complete_step(turn, n * n)
                values.append(turn.value)
                if n == 1 and ctx.attempt == 1:
                    raise ValueError
            return values

        async with self.app.worker():
            self.assertEqual(await (await self.app.spawn(loop, None)).result(timeout=10), [0, 1, 4])
        self.assertEqual(ran, [0, 1, 2])

    async def test_a_step_that_failed_for_good_is_tried_anew_by_the_next_attempt(self) -> None:
        """differs: there a step has no retries of its own, and a failing one is not saved. One with a policy is, for
        the attempt of the task that it belongs to."""
        ran: list[int] = []

        def fail() -> None:
            ran.append(1)
            raise ValueError("no")

        @self.app.task(retry=Retry.none())
        async def cope(ctx: Context, _: None) -> str:
            try:
                await ctx.step("s", fail, retry=Retry.fixed(60), max_attempts=2)
            except cairn.StepFailed as failed:
                await ctx.sleep(60)
                if ctx.attempt == 1:
                    raise ValueError from failed
                return failed.failure.message
            return "did not fail"

        async with self.app.worker():
            handle = await self.app.spawn(cope, None)
            for tries in (1, 2, 3):  # the pause and the sleep of the first attempt, the pause of the second
                await self.until(lambda: asyncio.sleep(0, len(ran)), tries)
                await self.until(handle.status, "waiting")
                await self.clock.advance(61)
            self.assertEqual(await handle.result(timeout=10), "no")
        self.assertEqual(len(ran), 4)

    async def test_steps_of_a_failed_task_can_be_looked_at(self) -> None:
        @self.app.task(max_attempts=1)
        async def half(ctx: Context, _: None) -> None:
            await ctx.step("one", lambda: {"ok": True})
            await ctx.step("two", int, "x")

        async with self.app.worker():
            handle = await self.app.spawn(half, None)
            with self.assertRaises(cairn.TaskFailed):
                await handle.result(timeout=10)
        steps = (await self.get(f"/v1/tasks/{handle.id}/steps"))["items"]
        self.assertEqual([(s["key"], s["status"], s["value"]) for s in steps], [("one", "done", {"ok": True})])


@needs_server
class Sleeping(ServerCase):
    """9. Sleeps end in their time."""

    async def test_sleeps_end_in_their_time_and_are_not_slept_again(self) -> None:
        woke: list[int] = []

        @self.app.task()
        async def nap(ctx: Context, _: None) -> str:
            await ctx.sleep("short", 3600)
            woke.append(1)
            await ctx.sleep(86400)
            await ctx.sleep_until("long past", 1)
            return "rested"

        async with self.app.worker():
            handle = await self.app.spawn(nap, None)
            await self.until(handle.status, "waiting")
            await self.clock.advance(3590)
            await asyncio.sleep(0.2)
            self.assertEqual(woke, [], "a timer means not before")
            await self.clock.advance(11)
            await self.until(lambda: asyncio.sleep(0, len(woke)), 1)
            await self.until(handle.status, "waiting")
            await self.clock.advance(86401)
            self.assertEqual(await handle.result(timeout=10), "rested")

    async def test_sleeps_go_by_the_clock_of_the_server(self) -> None:
        """Of a worker whose clock is an hour slow each short sleep would be over before it began."""
        slow = App(self.server.url, queue=self.app.queue)
        await self.clock.advance(3600)

        @slow.task()
        async def nap(ctx: Context, _: None) -> None:
            await ctx.sleep(60)

        async with slow, slow.worker():
            handle = await slow.spawn(nap, None)
            await self.until(handle.status, "waiting")
            await self.clock.advance(50)
            await asyncio.sleep(0.2)
            self.assertEqual(await handle.status(), "waiting", "too early")
            await self.clock.advance(11)
            await handle.result(timeout=10)


@needs_server
class Events(ServerCase):
    """10. Events reach whoever waits, before or after."""

    async def test_the_first_event_wakes_all_before_and_after(self) -> None:
        @self.app.task()
        async def listen(ctx: Context, n: int) -> list[Any]:
            return [n, await ctx.event("news")]

        async with self.app.worker(slots=4):
            handles = [await self.app.spawn(listen, n) for n in range(12)]
            for handle in handles:
                await self.until(handle.status, "waiting")
            self.assertTrue(await self.app.emit("news", "first"))
            self.assertFalse(await self.app.emit("news", "second"))
            handles.append(await self.app.spawn(listen, 12))
            self.assertEqual([await h.result(timeout=10) for h in handles], [[n, "first"] for n in range(13)])

    async def test_an_event_may_come_before_the_task(self) -> None:
        @self.app.task()
        async def listen(ctx: Context, _: None) -> Any:
            return await ctx.event("early")

        self.assertTrue(await self.app.emit("early", {"n": 1}))
        async with self.app.worker():
            self.assertEqual(await (await self.app.spawn(listen, None)).result(timeout=10), {"n": 1})

    async def test_no_wake_up_is_lost_when_await_and_emit_race(self) -> None:
        @self.app.task()
        async def listen(ctx: Context, name: str) -> Any:
            return await ctx.event(name)

        async with self.app.worker(slots=8):
            for n in range(40):
                handle = await self.app.spawn(listen, f"e{n}")
                await asyncio.sleep(0.0005 * (n % 10))
                await self.app.emit(f"e{n}", n)
                self.assertEqual(await handle.result(timeout=10), n)

    async def test_a_timeout_is_recorded(self) -> None:
        """differs: a timeout is recorded, and raised again. There it left no checkpoint, so a loop of waits lost a
        window on replay, and the same name awaited again returned nothing as if the event had come."""

        @self.app.task()
        async def windows(ctx: Context, _: None) -> list[Any]:
            seen: list[Any] = []
            for _n in range(3):
                try:
                    seen.append(await ctx.event("tick", timeout=60))
                except cairn.TimedOut:
                    seen.append("timed out")
                await ctx.sleep(10)
            return [*seen, await ctx.event("tock", timeout=1, default="nothing")]

        async with self.app.worker():
            handle = await self.app.spawn(windows, None)

            async def waits_for() -> list[str]:
                return [reason["kind"] for reason in (await handle.info())["waiting"]]

            for kind, seconds in (("event", 61), ("timer", 11), ("event", 61), ("timer", 11)):
                await self.until(waits_for, [kind])
                await self.clock.advance(seconds)
            await self.until(waits_for, ["event"])
            await self.app.emit("tick", "tick!")
            for kind, seconds in (("timer", 11), ("event", 2)):
                await self.until(waits_for, [kind])
                await self.clock.advance(seconds)
            self.assertEqual(await handle.result(timeout=10), ["timed out", "timed out", "tick!", "nothing"])


@needs_server
class Cancelling(ServerCase):
    """11. A task is cancelled in any state but an end."""

    async def test_queued_running_and_waiting_tasks_are_cancelled_and_ended_ones_are_not(self) -> None:
        let_go: list[str] = []

        @self.app.task()
        async def stay(ctx: Context, how: str) -> str:
            try:
                if how == "waiting":
                    await ctx.sleep(3600)
                elif how == "running":
                    await asyncio.sleep(3600)
            except asyncio.CancelledError:
                let_go.append(how)
                await ctx.step("after the end", let_go.append, "never")
            return how

        queued = await self.app.spawn(stay, "queued", delay=3600)
        async with self.app.worker():
            running, waiting, done = [await self.app.spawn(stay, how) for how in ("running", "waiting", "done")]
            await self.until(running.status, "running")
            await self.until(waiting.status, "waiting")
            await done.result(timeout=10)
            for handle in (queued, running, waiting, done, running):
                await handle.cancel("enough")
            for handle in (queued, running, waiting):
                with self.assertRaises(cairn.TaskCancelled):
                    await handle.result(timeout=10)
            self.assertEqual(await done.status(), "completed")
            await self.until(lambda: asyncio.sleep(0, list(let_go)), ["running"], seconds=45)

    async def test_unknown_tasks_cannot_be_cancelled(self) -> None:
        with self.assertRaises(cairn.NotFound):
            await self.app.handle("0190b2a4-0000-7000-8000-000000000000").cancel()

    async def test_the_server_cancels_what_takes_too_long(self) -> None:
        @self.app.task()
        async def nap(ctx: Context, _: None) -> None:
            await ctx.sleep(7200)

        not_started = await self.app.spawn("nobody's", None, cancel=Cancel(max_delay=60))
        async with self.app.worker():
            endless = await self.app.spawn(nap, None, cancel=Cancel(max_duration=60))
            await self.until(endless.status, "waiting")
            await self.clock.advance(61)
            await self.until(not_started.status, "cancelled")
            await self.until(endless.status, "cancelled")


@needs_server
class NoDeadlock(ServerCase):
    """12. Cancelling and ending at the same time come to one of the two."""

    async def test_a_cancellation_races_with_the_end(self) -> None:
        @self.app.task(max_attempts=1)
        async def end(ctx: Context, n: int) -> int:
            await ctx.step("s", lambda: None)
            if n % 2:
                raise ValueError
            return n

        async with self.app.worker(slots=8):
            for n in range(40):
                handle = await self.app.spawn(end, n)
                await asyncio.sleep(0.001 * (n % 10))
                await handle.cancel()
                try:
                    self.assertEqual(await handle.result(timeout=10), n)
                    came_to = "completed"
                except cairn.TaskCancelled:
                    came_to = "cancelled"
                except cairn.TaskFailed:
                    came_to = "failed"
                self.assertEqual(await handle.status(), came_to, "and it stays so")


@needs_server
class RetryByHand(ServerCase):
    """13. A failed task is run again by hand."""

    async def test_a_failed_task_is_run_again_by_hand(self) -> None:
        charged: list[int] = []
        broken = True

        @self.app.task(max_attempts=1)
        async def pay(ctx: Context, n: int) -> int:
            charged.append(await ctx.step("charge", lambda: len(charged) + n))
            if broken:
                raise ValueError
            return charged[-1]

        async with self.app.worker():
            handle = await self.app.spawn(pay, 10)
            with self.assertRaises(cairn.TaskFailed):
                await handle.result(timeout=10)
            broken = False
            again = await handle.retry()
            self.assertEqual((again.id, await again.result(timeout=10)), (handle.id, 10), "the step was kept")
            with self.assertRaises(cairn.Conflict):
                await handle.retry()
            broken = True
            other = await self.app.spawn(pay, 10)
            with self.assertRaises(cairn.TaskFailed):
                await other.result(timeout=10)
            broken = False
            new = await other.retry("new")
            self.assertNotEqual(new.id, other.id)
            self.assertEqual(await new.result(timeout=10), 13, "nothing was kept")

    async def test_only_failed_tasks_and_only_with_more_attempts(self) -> None:
        """differs: how many attempts are added is said, not what they come to; none is refused."""
        handle = await self.app.spawn("nobody's", None)
        for mode in ("in_place", "new"):
            with self.assertRaises(cairn.Conflict):
                await handle.retry(mode)
        with self.assertRaises(cairn.NotFound):
            await self.app.handle(UNKNOWN).retry()

        @self.app.task(max_attempts=1)
        async def fail(ctx: Context, _: None) -> None:
            raise ValueError

        async with self.app.worker():
            failed = await self.app.spawn(fail, None)
            with self.assertRaises(cairn.TaskFailed):
                await failed.result(timeout=10)
            with self.assertRaises(cairn.Refused):
                await failed.retry(extra_attempts=0)
            await failed.retry(extra_attempts=1)
            with self.assertRaises(cairn.TaskFailed):
                await failed.result(timeout=10)
        self.assertEqual((await failed.info())["attempt"], 2)


@needs_server
class Cleanup(ServerCase):
    """14. What has ended goes after its time; queues are made and named."""

    async def test_ended_tasks_and_events_go_and_others_stay(self) -> None:
        @self.app.task()
        async def quick(ctx: Context, _: None) -> None: ...

        async with self.app.worker():
            ended = await self.app.spawn(quick, None)
            await ended.result(timeout=10)
            waiting = await self.app.spawn(quick, None, delay=86400 * 300)
            self.assertTrue(await self.app.emit("news", 1))
            await self.clock.advance(40 * 86400)

            async def is_there() -> bool:
                try:
                    await ended.info()
                except cairn.NotFound:
                    return False
                return True

            await self.until(is_there, False)
            self.assertEqual(await waiting.status(), "queued")
            await self.until(lambda: self.app.emit("news", 2), True)

    async def test_queues_are_made_once_and_have_good_names(self) -> None:
        await self.app.make_queue("again")
        await self.app.make_queue("again")
        for name in ("x" * 300, ""):
            with self.assertRaises(cairn.Invalid):
                await self.app.make_queue(name)
        with self.assertRaises(cairn.NotFound):
            await self.app.spawn("any", None, queue="never made")


@needs_server
class Working(ServerCase):
    """15. Workers."""

    async def test_slots_are_never_exceeded_and_filled_again(self) -> None:
        now_running, most = 0, 0

        @self.app.task()
        async def count(ctx: Context, _: None) -> None:
            nonlocal now_running, most
            now_running += 1
            most = max(most, now_running)
            await asyncio.sleep(0.01)
            await ctx.step("s", lambda: None)
            now_running -= 1

        async with self.app.worker(slots=4):
            handles = [await self.app.spawn(count, None) for _ in range(60)]
            for handle in handles:
                await handle.result(timeout=20)
        self.assertEqual(most, 4)

    async def test_a_slow_task_and_a_broken_one_harm_nobody(self) -> None:
        stuck = asyncio.Event()

        @self.app.task()
        async def slow(ctx: Context, _: None) -> None:
            await stuck.wait()

        @self.app.task(max_attempts=1)
        async def broken(ctx: Context, how: str) -> Any:
            if how == "exit":
                raise SystemExit(1)
            if how == "exit in a step":
                await ctx.step("s", sys.exit, 1)
            return float("nan")

        @self.app.task()
        async def good(ctx: Context, n: int) -> int:
            return await ctx.step("s", lambda: n)

        async with self.app.worker(slots=3):
            handle = await self.app.spawn(slow, None)
            bad = [await self.app.spawn(broken, how) for how in ("exit", "exit in a step", "not JSON")]
            self.assertEqual([await (await self.app.spawn(good, n)).result(timeout=10) for n in range(5)], [*range(5)])
            for each in bad:
                with self.assertRaises(cairn.TaskFailed):
                    await each.result(timeout=10)
            stuck.set()
            await handle.result(timeout=10)

    async def test_unknown_names_are_left_to_others(self) -> None:
        """differs: a worker is only handed names that it offered, so there is nothing to defer."""
        other = App(self.server.url, queue=self.app.queue)

        @self.app.task()
        async def ours(ctx: Context, _: None) -> None: ...

        @other.task()
        async def theirs(ctx: Context, _: None) -> str:
            return "theirs"

        handle = await self.app.spawn("theirs", None)
        async with self.app.worker():
            await (await self.app.spawn(ours, None)).result(timeout=10)
            self.assertEqual(await handle.status(), "queued")
            async with other, other.worker():
                self.assertEqual(await handle.result(timeout=10), "theirs")
        self.assertEqual((await handle.info())["attempt"], 1)

    async def test_a_drain_lets_tasks_end_and_gives_back_the_rest(self) -> None:
        @self.app.task()
        async def work(ctx: Context, seconds: float) -> int:
            await asyncio.sleep(seconds)
            return ctx.attempt

        short, long = await self.app.spawn(work, 0.3), await self.app.spawn(work, 30.0)
        async with self.app.worker(drain=1):
            await self.until(long.status, "running")
            await self.until(short.status, "running")
        self.assertEqual(await short.result(timeout=1), 1)
        await self.until(long.status, "queued")
        info = await long.info()
        self.assertEqual((info["attempt"], info["lost"]), (1, 0), "given back at no cost")

    async def test_a_worker_that_is_told_to_stop_finishes_and_exits(self) -> None:
        handle = await self.app.spawn("hold", 0.5)
        worker = self.start_worker()
        await asyncio.to_thread(worker.stdout.readline)
        worker.terminate()
        self.assertEqual(await asyncio.to_thread(worker.wait, 10), 0)
        self.assertEqual(await handle.status(), "completed")

    async def test_a_child_is_awaited_without_a_slot(self) -> None:
        """differs: there awaiting a task of the same queue is refused, because it holds a slot. Ours does not."""

        @self.app.task()
        async def child(ctx: Context, n: int) -> int:
            if n < 0:
                raise cairn.Fatal("negative")
            return n * n

        @self.app.task()
        async def parent(ctx: Context, ns: list[int]) -> list[Any]:
            children = [await ctx.spawn(child, n) for n in ns]
            results: list[Any] = []
            for each in children:
                try:
                    results.append(await each.result())
                except cairn.TaskFailed as failed:
                    results.append(failed.failure.message)
            await ctx.emit("all done", results)
            return results

        async with self.app.worker(slots=1):
            handle = await self.app.spawn(parent, [2, 3, -1])
            self.assertEqual(await handle.result(timeout=10), [4, 9, "negative"])

    async def test_the_result_of_a_child_survives_its_cleanup(self) -> None:
        @self.app.task()
        async def child(ctx: Context, n: int) -> int:
            return n + 1

        @self.app.task()
        async def parent(ctx: Context, _: None) -> list[Any]:
            started = await ctx.spawn(child, 1)
            result = await started.result()
            await ctx.sleep(40 * 86400)
            return [started.id, result]

        async with self.app.worker():
            handle = await self.app.spawn(parent, None)

            async def sleeps() -> list[str]:
                return [reason["kind"] for reason in (await handle.info())["waiting"]]

            await self.until(sleeps, ["timer"])
            await self.clock.advance(40 * 86400 + 1)
            child_id, result = await handle.result(timeout=10)
            self.assertEqual(result, 2)

            async def child_is_there() -> bool:
                try:
                    await self.app.handle(child_id).info()
                except cairn.NotFound:
                    return False
                return True

            await self.until(child_is_there, False)

    async def test_headers_that_are_none_are_refused_at_once(self) -> None:
        """differs: there they fail the run."""
        for headers in ("text", {"n": float("nan")}, {"o": object()}):
            options: Any = {"headers": headers}
            with self.assertRaises((cairn.Invalid, TypeError, ValueError)):
                await self.app.spawn("any", None, **options)

    async def test_hooks_carry_context_and_keep_it_apart(self) -> None:
        tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

        @self.app.before_spawn
        def inject(name: str, input: Any, options: cairn.SpawnOptions) -> cairn.SpawnOptions:
            return {**options, "headers": {"tenant": tenant.get(), **options.get("headers", {})}}

        @self.app.wrap_task
        async def restore(ctx: Context, run: Any) -> Any:
            tenant.set(ctx.headers["tenant"])
            return {"wrapped": await run()}

        @self.app.task()
        async def who(ctx: Context, depth: int) -> list[str]:
            await asyncio.sleep(0.05)
            in_step = await ctx.step("in a thread", tenant.get)
            below: Any = await (await ctx.spawn("who", depth - 1)).result() if depth else {"wrapped": []}
            return [tenant.get(), in_step, *below["wrapped"]]

        async with self.app.worker(slots=4):
            handles = []
            for name in ("ada", "bob", "eve"):
                tenant.set(name)
                handles.append((name, await self.app.spawn(who, 1)))
            tenant.set("nobody")
            for name, handle in handles:
                self.assertEqual(await handle.result(timeout=10), {"wrapped": [name] * 4})
        self.assertEqual(tenant.get(), "nobody")

    async def test_what_a_task_sets_in_its_context_stays_there(self) -> None:
        mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=-1)

        @self.app.task()
        async def leave_a_mark(ctx: Context, n: int) -> int:
            before = mark.get()
            mark.set(n)
            for _ in range(n % 4):
                await ctx.step("s", lambda: None)
            return before

        spawns: list[Any] = [(leave_a_mark, n, {}) for n in range(50)]
        handles: list[Any] = await self.app.spawn_many(spawns)
        async with self.app.worker(slots=4):
            self.assertEqual([await handle.result(timeout=10) for handle in handles], [-1] * 50)


if __name__ == "__main__":
    unittest.main()
