"""Scenarios against a real server, grouped as the model system groups its own: CAIRN_BIN names the binary."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import cairn
from cairn import App, Cancel, Context, Retry

from support import ServerCase, needs_patience, needs_server

README = Path(__file__).parent.parent / "README.md"


@needs_server
class Lifecycle(ServerCase):
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

    async def test_the_quickstart_of_the_readme_runs(self) -> None:
        program = README.read_text().split("```python\n")[1].split("```")[0]
        environment = {**os.environ, "CAIRN_URL": self.server.url}
        run = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
        )
        self.assertEqual(run.stdout, "paid 30, to Stockholm\n", run.stderr)


@needs_server
class Spawning(ServerCase):
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

    async def test_a_batch_keeps_its_order_and_its_good_parts(self) -> None:
        @self.app.task()
        async def echo(ctx: Context, n: int) -> int:
            return n

        spawns: list[Any] = [(echo, n, {}) for n in range(20)]
        spawns[7] = ("echo", 7, {"max_attempts": 0})
        handles = await self.app.spawn_many(spawns)
        self.assertIsInstance(handles[7], cairn.Invalid)
        async with self.app.worker():
            good = [h for h in handles if isinstance(h, cairn.Handle)]
            self.assertEqual([await h.result(timeout=10) for h in good], [n for n in range(20) if n != 7])

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


@needs_server
class Retrying(ServerCase):
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


@needs_server
class Steps(ServerCase):
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

    async def test_many_steps_come_back_in_pages(self) -> None:
        ran: list[int] = []

        def big(n: int) -> str:
            ran.append(n)
            return f"{n}" + "x" * 300_000

        @self.app.task(retry=Retry.none())
        async def load(ctx: Context, _: None) -> int:
            values = [await ctx.step("s", big, n) for n in range(8)]
            if ctx.attempt == 1:
                raise ValueError
            return sum(len(value) for value in values)

        async with self.app.worker():
            self.assertEqual(await (await self.app.spawn(load, None)).result(timeout=20), 8 * 300_001)
        self.assertEqual(ran, list(range(8)))

    async def test_a_failed_step_behind_the_first_page_is_tried_anew_too(self) -> None:
        """Pages show what earlier attempts have recorded, so its failures were taken for this attempt's own."""
        ran: list[int] = []

        def fail_at_first() -> str:
            ran.append(1)
            if len(ran) == 1:
                raise ValueError
            return "done"

        @self.app.task(retry=Retry.none())
        async def load(ctx: Context, _: None) -> str:
            for _n in range(5):
                await ctx.step("s", lambda: "x" * 300_000)
            try:
                return await ctx.step("t", fail_at_first, max_attempts=1)
            except cairn.StepFailed as failed:
                raise ValueError from failed

        async with self.app.worker():
            self.assertEqual(await (await self.app.spawn(load, None)).result(timeout=20), "done")

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

    async def test_a_step_has_its_time(self) -> None:
        @self.app.task(max_attempts=1)
        async def slow(ctx: Context, _: None) -> None:
            await ctx.step("s", asyncio.sleep, 30, timeout=0.05)

        async with self.app.worker():
            with self.assertRaises(cairn.TaskFailed) as failed:
                await (await self.app.spawn(slow, None)).result(timeout=10)
        self.assertEqual(failed.exception.failure.kind, "timed_out")

    async def test_a_map_runs_each_item_once(self) -> None:
        ran: list[str] = []

        async def book(ctx: Context, sku: str) -> str:
            ran.append(await ctx.step("book", lambda: sku.upper()))
            await ctx.sleep(60)
            return await ctx.step("confirm", lambda: sku + "!")

        @self.app.task()
        async def ship(ctx: Context, skus: list[str]) -> list[str]:
            return await ctx.map("ship", skus, book)

        async with self.app.worker():
            handle = await self.app.spawn(ship, ["a/1", "b", "c"])
            await self.until(handle.status, "waiting")
            await self.clock.advance(61)
            self.assertEqual(await handle.result(timeout=10), ["a/1!", "b!", "c!"])


@needs_server
class Waiting(ServerCase):
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
        """Of the model system: a loop of waits lost a window on replay, and the same name awaited again after a
        timeout returned nothing as if the event had come, because a timeout left no checkpoint."""

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

    async def test_a_child_is_awaited_without_a_slot(self) -> None:
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

    async def test_the_first_of_two_waits_goes_on_alone(self) -> None:
        @self.app.task()
        async def either(ctx: Context, _: None) -> str:
            event = asyncio.ensure_future(ctx.event("soon"))
            alarm = asyncio.ensure_future(ctx.sleep("alarm", 3600))
            done, pending = await asyncio.wait({event, alarm}, return_when=asyncio.FIRST_COMPLETED)
            for each in pending:
                each.cancel()
            return str(await ctx.step("tell", lambda: "event" if event in done else "alarm"))

        async with self.app.worker():
            handle = await self.app.spawn(either, None)
            await self.until(handle.status, "waiting")
            await self.app.emit("soon")
            self.assertEqual(await handle.result(timeout=10), "event")


@needs_server
class Cancelling(ServerCase):
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
class Working(ServerCase):
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

    async def test_a_restart_of_the_server_costs_no_task(self) -> None:
        ran: list[str] = []
        go = asyncio.Event()

        @self.app.task()
        async def survive(ctx: Context, _: None) -> int:
            await ctx.step("before", ran.append, "before")
            await go.wait()
            await ctx.step("after", ran.append, "after")
            return ctx.attempt

        async with self.app.worker():
            handle = await self.app.spawn(survive, None)
            await self.until(lambda: asyncio.sleep(0, list(ran)), ["before"])
            await asyncio.sleep(0.2)
            self.server.kill()
            go.set()
            await asyncio.sleep(0.5)
            self.server.start()
            await self.clock.advance(0)
            self.assertEqual(await handle.result(timeout=30), 1)
        self.assertEqual(ran, ["before", "after"])
        self.assertEqual((await handle.info())["lost"], 0)


@needs_server
@needs_patience
class Leases(ServerCase):
    async def test_a_task_that_blocks_its_worker_outlives_the_lease(self) -> None:
        @self.app.task(max_attempts=1)
        async def block(ctx: Context, seconds: float) -> int:
            time.sleep(seconds)  # noqa: ASYNC251
            return ctx.attempt

        async with self.app.worker(slots=2):
            handle = await self.app.spawn(block, 40.0)
            self.assertEqual(await handle.result(timeout=60), 1)
        self.assertEqual((await handle.info())["lost"], 0)

    async def test_a_killed_worker_costs_a_lease_and_no_attempt(self) -> None:
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


if __name__ == "__main__":
    unittest.main()
