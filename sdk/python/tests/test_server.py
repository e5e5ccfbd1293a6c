"""What the SDK does against a real server beyond the scenarios of ``test_scenarios.py``: bounds are told, and a server
that goes away costs no task. CAIRN_BIN names the binary."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock
from typing import Any

import cairn
import cairn.wire
from cairn import Context, Retry
from cairn.pulse import Pulse

from support import ServerCase, needs_patience, needs_server


@needs_server
class Spawning(ServerCase):
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

    async def test_a_full_queue_is_busy_but_not_for_the_children_of_a_task(self) -> None:
        """A task that waited for room in its own queue, with its slot, could wait for itself."""
        full = f"{self.app.queue}-full"
        await self.put(f"/v1/queues/{full}", {"max_waiting": 1})

        @self.app.task(max_attempts=1)
        async def parent(ctx: Context, _: None) -> int:
            await ctx.spawn("small", 1, queue=full)
            await ctx.spawn("small", 2, queue=full)
            return ctx.attempt

        async with self.app.worker():
            handle = await self.app.spawn(parent, None)
            self.assertEqual(await handle.result(timeout=10), 1)
            with self.assertRaises(cairn.Busy) as busy:
                await self.app.spawn("small", 3, queue=full)
        self.assertIn(full, str(busy.exception))
        steps = (await self.get(f"/v1/tasks/{handle.id}/steps"))["items"]
        self.assertEqual([step["key"] for step in steps], ["spawn:small", "spawn:small#2"])

    async def test_many_results_are_waited_for_beside_other_calls(self) -> None:
        """A hundred of them had all connections, and an emit waited for two minutes."""

        @self.app.task()
        async def wait(ctx: Context, _: None) -> Any:
            return await ctx.event("go")

        async with self.app.worker(slots=100):
            spawns: list[Any] = [(wait, None, {}) for _ in range(300)]
            handles: list[Any] = await self.app.spawn_many(spawns)
            results = [asyncio.ensure_future(handle.result(timeout=30)) for handle in handles]
            await asyncio.sleep(1)
            await asyncio.wait_for(self.app.emit("go", 7), 5)
            self.assertEqual(await asyncio.gather(*results), [7] * 300)


@needs_server
class Steps(ServerCase):
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


# Says its session once its step has returned, and does nothing durable after it.
LATE_WORKER = """
import asyncio, sys
from cairn import App
app = App(queue=sys.argv[1])
@app.task()
async def late(ctx, _):
    value = await ctx.step("a", lambda: "of the first worker", may_rerun=True)
    print(worker._session.id, flush=True)
    await asyncio.sleep(3600)
worker = app.worker()
asyncio.run(worker.run())
"""


@needs_server
class Beats(ServerCase):
    async def test_a_beat_names_the_step_that_runs_and_the_last_progress(self) -> None:
        said: list[tuple[str | None, Any]] = []
        beat = cairn.wire.beat

        def watched(session: str, live: Any) -> Any:
            said.extend((each.step, each.progress and json.loads(each.progress)) for each in live.values())
            return beat(session, live)

        async def shown(ctx: Context, wanted: tuple[str | None, Any], *progress: Any) -> None:
            await ctx.heartbeat(*progress)
            await self.until(lambda: asyncio.sleep(0, wanted in said), True, 5)

        @self.app.task(max_attempts=1)
        async def load(ctx: Context, _: None) -> None:
            await shown(ctx, (None, None))
            await ctx.step("outer", shown, ctx, ("outer", {"done": 1}), {"done": 1})
            end = asyncio.Event()
            slow = asyncio.ensure_future(ctx.step("slow", end.wait))
            await shown(ctx, ("slow", {"done": 1}))
            await ctx.step("quick", shown, ctx, ("quick", 2), 2)
            await shown(ctx, ("slow", 2))
            end.set()
            await slow
            await shown(ctx, (None, 2))
            turn = await ctx.begin_step("turn")
            await shown(ctx, ("turn", 2))
            await ctx.complete_step(turn, None)
            await shown(ctx, (None, "end"), "end")

        with unittest.mock.patch("cairn.wire.beat", watched):
            async with self.app.worker():
                await (await self.app.spawn(load, None)).result(timeout=20)


@needs_server
class MayRerun(ServerCase):
    """A step whose value goes with what the task does next."""

    def watch(self, worker: cairn.Worker) -> list[list[tuple[str, str | None]]]:
        """What each request with operations carries: the operation, and the id of its step."""
        requests: list[list[tuple[str, str | None]]] = []
        send = worker._transport.send

        async def watched(call: Any) -> Any:
            if call.path.endswith("/ops"):
                requests.append([(op["op"], op.get("key")) for op in json.loads(call.body)["ops"]])
            return await send(call)

        worker._transport.send = watched  # type: ignore[method-assign]
        return requests

    async def steps(self, handle: cairn.Handle[Any]) -> dict[str, Any]:
        return {step["key"]: step["value"] for step in (await self.get(f"/v1/tasks/{handle.id}/steps"))["items"]}

    async def test_the_last_step_goes_with_the_end(self) -> None:
        @self.app.task()
        async def order(ctx: Context, item: str) -> str:
            paid = await ctx.step("charge", lambda: f"paid {item}")
            return await ctx.step("pack", lambda: f"{paid}, packed", may_rerun=True)

        async with self.app.worker() as worker:
            requests = self.watch(worker)
            handle = await self.app.spawn(order, "a lamp")
            self.assertEqual(await handle.result(timeout=10), "paid a lamp, packed")
        self.assertEqual(requests, [[("step", "charge")], [("step", "pack"), ("finish", None)]])
        self.assertEqual(await self.steps(handle), {"charge": "paid a lamp", "pack": "paid a lamp, packed"})

    async def test_a_failure_and_a_suspension_carry_it(self) -> None:
        ran: list[str] = []

        @self.app.task(retry=Retry.none())
        async def order(ctx: Context, _: None) -> int:
            await ctx.step("a", ran.append, "a", may_rerun=True)
            if ctx.attempt == 1:
                raise ValueError
            await ctx.step("b", ran.append, "b", may_rerun=True)
            await ctx.sleep("nap", 60)
            return ctx.attempt

        async with self.app.worker() as worker:
            requests = self.watch(worker)
            handle = await self.app.spawn(order, None)
            await self.until(handle.status, "waiting")
            self.assertEqual(await self.steps(handle), {"a": None, "b": None})
            await self.clock.advance(61)
            self.assertEqual(await handle.result(timeout=10), 2)
        wanted = [[("step", "a"), ("finish", None)], [("step", "b"), ("suspend", None)], [("finish", None)]]
        self.assertEqual((ran, requests), (["a", "b"], wanted))

    async def test_a_lost_answer_is_asked_for_again(self) -> None:
        """The step is told again after the end of its task, and is answered as before."""

        @self.app.task(max_attempts=1)
        async def order(ctx: Context, _: None) -> int:
            return await ctx.step("a", lambda: 7, may_rerun=True)

        async with self.app.worker() as worker:
            send, bodies = worker._transport.send, list[Any]()

            async def lossy(call: Any) -> Any:
                answer = await send(call)
                if call.path.endswith("/ops"):
                    bodies.append(json.loads(call.body)["ops"])
                    if len(bodies) == 1:
                        raise cairn.Unreachable("the answer is lost")
                return answer

            worker._transport.send = lossy  # type: ignore[method-assign]
            handle = await self.app.spawn(order, None)
            self.assertEqual(await handle.result(timeout=10), 7)
            await self.until(lambda: asyncio.sleep(0, len(bodies)), 2)
            await self.until(lambda: asyncio.sleep(0, len(worker._runs)), 0)
        self.assertEqual(bodies[0], bodies[1])
        self.assertEqual((await handle.info())["attempt"], 1)

    async def test_a_crash_before_it_is_recorded_runs_the_step_again(self) -> None:
        first = self.spawn_process(LATE_WORKER, self.app.queue)
        handle = await self.app.spawn("late", None)
        session = (await asyncio.to_thread(first.stdout.readline)).decode().strip()
        first.kill()
        self.assertEqual(await self.steps(handle), {})
        await self.post("/v1/workers/bye", {"session": session})  # rather than wait for its lease to end

        @self.app.task()
        async def late(ctx: Context, _: None) -> str:
            return await ctx.step("a", lambda: "of the second worker", may_rerun=True)

        async with self.app.worker():
            self.assertEqual(await handle.result(timeout=10), "of the second worker")

    async def test_a_worker_that_is_stopped_records_it(self) -> None:
        returned = asyncio.Event()

        @self.app.task()
        async def hold(ctx: Context, _: None) -> None:
            await ctx.step("a", lambda: 1, may_rerun=True)
            returned.set()
            await asyncio.sleep(3600)

        async with self.app.worker(drain=0.1):
            handle = await self.app.spawn(hold, None)
            await returned.wait()
        self.assertEqual((await self.steps(handle), await handle.status()), ({"a": 1}, "queued"))
        self.assertEqual((await handle.info())["lost"], 0)

    async def test_a_value_that_is_refused_fails_the_attempt(self) -> None:
        """Somebody else has recorded another one under its id: nothing that came after it counts."""

        @self.app.task(max_attempts=1)
        async def order(ctx: Context, _: None) -> str:
            work = ctx._run.work
            await ctx.step("a", lambda: "ours", may_rerun=True)
            theirs = {"op": "step", "task": work.task, "fence": work.fence, "key": "a", "value": "theirs"}
            session = await worker._current_session()
            await self.post("/v1/workers/ops", {"session": session, "ops": [theirs], "claim": 0})
            return "done"

        async with self.app.worker() as worker:
            requests = self.watch(worker)
            handle = await self.app.spawn(order, None)
            with self.assertRaises(cairn.TaskFailed) as failed:
                await handle.result(timeout=10)
        self.assertEqual(failed.exception.failure.kind, "Conflict")
        self.assertEqual(requests, [[("step", "a"), ("finish", None)], [("finish", None)]])
        self.assertEqual(await self.steps(handle), {"a": "theirs"})


@needs_server
class Restarts(ServerCase):
    @unittest.mock.patch("cairn.pulse._ATTACH_S", 0.0)
    async def test_a_restart_of_the_server_costs_no_task(self) -> None:
        """Whoever was answered once does not give up, however long it takes."""
        ran: list[str] = []
        go = asyncio.Event()

        @self.app.task()
        async def survive(ctx: Context, _: None) -> int:
            await ctx.step("before", ran.append, "before")
            await go.wait()
            await ctx.step("after", ran.append, "after")
            return ctx.attempt

        async with self.app.worker() as worker:
            handle = await self.app.spawn(survive, None)
            await self.until(lambda: asyncio.sleep(0, list(ran)), ["before"])
            await asyncio.sleep(0.2)
            self.server.kill()
            worker.progress(worker._runs[handle.id].work, None)  # a beat, now
            go.set()
            await asyncio.sleep(0.5)
            self.server.start()
            await self.clock.advance(0)
            self.assertEqual(await handle.result(timeout=30), 1)
        self.assertEqual(ran, ["before", "after"])
        self.assertEqual((await handle.info())["lost"], 0)

    async def test_a_worker_can_be_stopped_while_the_server_is_away(self) -> None:
        recording, gone = asyncio.Event(), asyncio.Event()

        @self.app.task()
        async def record(ctx: Context, _: None) -> int:
            await ctx.step("s", recording.set)
            await ctx.step("t", asyncio.sleep, 0.5)
            return ctx.attempt

        @self.app.task()
        async def finish(ctx: Context, _: None) -> None:
            await gone.wait()

        others = asyncio.all_tasks()
        async with self.app.worker(drain=1.5):
            handle, ending = await self.app.spawn(record, None), await self.app.spawn(finish, None)
            await recording.wait()
            await self.until(ending.status, "running")
            self.server.kill()
            gone.set()
            stopped = time.monotonic()
        self.assertLess(time.monotonic() - stopped, 20)
        self.assertEqual(asyncio.all_tasks() - others, set(), "nothing runs on")
        self.server.start()
        await self.clock.advance(0)
        self.assertIn(await handle.status(), ("running", "queued"), "missed for a lease, then another's")

    async def test_a_loop_that_is_closed_ends_the_heartbeat(self) -> None:
        """It beat on for tasks that nobody ran any more, and so they stayed running."""

        def left() -> None:
            async def enter() -> None:
                await cairn.App(self.server.url, queue=self.app.queue).worker(name="left").__aenter__()

            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda loop, context: None)
            loop.run_until_complete(enter())
            loop.close()

        before = set(threading.enumerate())
        await asyncio.to_thread(left)
        (beating,) = [each for each in set(threading.enumerate()) - before if isinstance(each, Pulse)]
        assert beating._session is not None
        beating.hello_again(beating._session.id)  # rather than wait for its next beat
        await asyncio.to_thread(beating.join, 10)
        self.assertFalse(beating.is_alive())

    async def test_a_task_that_is_given_back_is_named_until_the_server_knows(self) -> None:
        """It left the heartbeats when its release was sent, so that the server would have counted it as lost."""

        @self.app.task()
        async def hold(ctx: Context, _: None) -> None:
            await asyncio.sleep(3600)

        async with self.app.worker(drain=0) as worker:
            handle = await self.app.spawn(hold, None)
            await self.until(handle.status, "running")
            run = worker._runs[handle.id]
            self.server.kill()
            worker._give_back(run.work, worker.now_ms() + 60_000)
            await asyncio.sleep(0.3)
            self.assertIn(handle.id, worker._pulse._live)
            self.server.start()
            await self.until(handle.status, "queued", 30)
            await self.until(lambda: asyncio.sleep(0, handle.id in worker._pulse._live), False)
        info = await handle.info()
        self.assertEqual((info["attempt"], info["lost"]), (1, 0))

    @needs_patience
    async def test_nothing_is_lost_under_a_server_that_is_killed_again_and_again(self) -> None:
        """A hand-out whose answer the kill has swallowed is missed for one lease, and costs no attempt."""
        ran: dict[str, int] = {}

        def work(what: str) -> str:
            ran[what] = ran.get(what, 0) + 1
            return what

        @self.app.task(max_attempts=1)
        async def many(ctx: Context, n: int) -> list[str]:
            done = [await ctx.step("s", work, f"{n}/{i}") for i in range(4)]
            await ctx.sleep(0.2)
            other = await ctx.spawn(one, n)
            return [*done, await other.result(), await ctx.step("end", work, f"{n}/end")]

        @self.app.task(max_attempts=1)
        async def one(ctx: Context, n: int) -> str:
            return await ctx.step("s", work, f"child {n}")

        async with self.app.worker(slots=8):
            spawns: list[Any] = [(many, n, {}) for n in range(40)]
            handles: list[Any] = await self.app.spawn_many(spawns)
            for _ in range(4):
                await asyncio.sleep(0.4)
                self.server.kill()
                self.server.start()
            results = [await handle.result(timeout=90) for handle in handles]
        wanted = [[f"{n}/0", f"{n}/1", f"{n}/2", f"{n}/3", f"child {n}", f"{n}/end"] for n in range(40)]
        self.assertEqual(results, wanted)
        for handle in handles:
            self.assertEqual((await handle.info())["attempt"], 1)
        self.assertEqual(set(ran.values()), {1}, "one worker that lives runs no step twice")

    @needs_patience
    async def test_a_server_that_is_gone_for_longer_than_a_lease(self) -> None:
        go, ran = asyncio.Event(), list[str]()

        @self.app.task(max_attempts=1)
        async def survive(ctx: Context, _: None) -> int:
            await ctx.step("before", ran.append, "before")
            await go.wait()
            await ctx.step("after", ran.append, "after")
            return ctx.attempt

        async with self.app.worker():
            handle = await self.app.spawn(survive, None)
            await self.until(lambda: asyncio.sleep(0, list(ran)), ["before"])
            self.server.kill()
            await asyncio.sleep(20)
            go.set()
            await asyncio.sleep(15)
            self.server.start()
            self.assertEqual(await handle.result(timeout=30), 1)
        self.assertEqual((ran, (await handle.info())["lost"]), (["before", "after"], 0))

    @needs_patience
    async def test_work_that_comes_while_the_loop_is_blocked_is_not_stuck(self) -> None:
        """Its hand-out is not heard of for so long that the server takes it back; the stale one does no harm."""

        @self.app.task(max_attempts=1)
        async def block(ctx: Context, seconds: float) -> int:
            if seconds:
                await ctx.step("spawn", self.in_another_process)
                time.sleep(seconds)  # noqa: ASYNC251
            return await ctx.step("s", lambda: ctx.attempt)

        async with self.app.worker(slots=3):
            handle = await self.app.spawn(block, 45)
            self.assertEqual(await handle.result(timeout=80), 1)
            other = await self.app.spawn(block, 0, key="other")
            self.assertFalse(other.created)
            self.assertEqual(await other.result(timeout=30), 1)
        self.assertEqual([(await each.info())["lost"] for each in (handle, other)], [0, 0])

    def in_another_process(self) -> None:
        """Spawns while this one's event loop is about to be blocked."""
        program = (
            "import asyncio, sys, time\nfrom cairn import App\n"
            "time.sleep(2)\nasyncio.run(App(queue=sys.argv[1]).spawn('block', 0, key='other'))"
        )
        environment = {**os.environ, "CAIRN_URL": self.server.url}
        process = subprocess.Popen([sys.executable, "-c", program, self.app.queue], env=environment)
        self.addCleanup(process.wait)


if __name__ == "__main__":
    unittest.main()
