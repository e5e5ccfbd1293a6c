"""What the tests share: a server of their own, and the words that skip them where there is none."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

import cairn

T = TypeVar("T", bound=Callable[..., Any])

BIN = os.environ.get("CAIRN_BIN")
if not BIN:
    print("SKIPPED: all that needs a server. CAIRN_BIN does not name its binary", file=sys.stderr)
if not os.environ.get("CAIRN_LOG"):
    logging.getLogger("cairn").setLevel(logging.CRITICAL)  # the tests fail tasks on purpose
needs_server = unittest.skipUnless(BIN, "SKIPPED: CAIRN_BIN does not name the server's binary")


def needs_patience(test: T) -> T:
    """For what waits for leases: skipped unless CAIRN_SLOW is set. ``python support.py`` names it all, so that it can
    be run at the same time."""
    test.needs_patience = True  # type: ignore[attr-defined]
    skip = unittest.skipUnless(os.environ.get("CAIRN_SLOW"), "SKIPPED: CAIRN_SLOW is not set; waits for leases")
    return skip(test)


class Server:
    """``cairn serve`` in a directory of its own."""

    def __init__(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="cairn-sdk-")
        self._address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        command = [BIN or "", "serve", self._dir.name, "--http", self._address, "--test-clock"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"{command} said {line!r}")
        self.url = "http://" + line.split("http://")[1].strip()
        self._address = self.url.removeprefix("http://")  # the same when it is started again

    def kill(self) -> None:
        self._process.kill()
        self._ended()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._ended()
        self._dir.cleanup()

    def _ended(self) -> None:
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


HOLDING_WORKER = """
import asyncio, sys
from cairn import App
app = App(queue=sys.argv[1])
@app.task()
async def hold(ctx, seconds):
    print("held", flush=True)
    await asyncio.sleep(seconds)
asyncio.run(app.worker().run())
"""


class ServerCase(unittest.IsolatedAsyncioTestCase):
    """One server for a class; a queue and an app for each test."""

    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)  # it costs more than all that is tested
        # A queue's name has at most 57 bytes.
        self.app = cairn.App(self.server.url, queue=self._testMethodName.removeprefix("test_")[:50])
        await self.app.make_queue()
        self.clock = self.app.test_clock()
        await self.clock.advance(0)  # learns the time that earlier tests have left

    async def asyncTearDown(self) -> None:
        await self.app.close()

    async def until(self, what: Callable[[], Awaitable[Any]], wanted: Any, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while (found := await what()) != wanted:
            self.assertLess(time.monotonic(), deadline, f"is {found!r}, never {wanted!r}")
            await asyncio.sleep(0.02)

    async def get(self, path: str) -> Any:
        """What the server says there, beyond what the SDK asks for."""
        return await self._ask("GET", path)

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        return await self._ask("PUT", path, body)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with httpx.AsyncClient(base_url=self.server.url) as client:
            answer = await client.request(method, path, json=body, headers={"cairn-protocol": "1"})
        self.assertTrue(answer.is_success, answer.text)
        return answer.json()

    def start_worker(self) -> Any:
        """A worker in a process of its own; it says when it holds the task "hold"."""
        return self.spawn_process(HOLDING_WORKER, self.app.queue)

    def spawn_process(self, program: str, *arguments: str) -> Any:
        environment = {**os.environ, "CAIRN_URL": self.server.url}
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for close in (process.wait, process.stdout.close, process.kill):
            self.addCleanup(close)
        return process


def patient_tests(suite: unittest.TestSuite) -> Iterator[str]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from patient_tests(test)
        elif hasattr(test, "needs_patience") or hasattr(getattr(test, test._testMethodName), "needs_patience"):
            yield test.id()


if __name__ == "__main__":
    print(*patient_tests(unittest.defaultTestLoader.discover(str(Path(__file__).parent))), sep="\n")
