"""How a shared app serves many browsers at once: ``python -m benchmarks.room [--home FOLDER] [--people 1 12 30]``.

Every person is a session that speaks Streamlit's own protocol and asks for the fragments' ticks as a browser does; nothing is drawn, so the
time is the server's alone (a room's browsers run on machines of their own). All open each page in the same moment, then rest on it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from pathlib import Path

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks import homes
from benchmarks.pages import served
from benchmarks.work import own_home

PAGES = ("", "learn", "fine-tune", "compare", "samples", "chat")
RUNS, REST, MOST = 20, 8.0, 60.0
ENDED = 0
"""``ForwardMsg.script_finished`` of a page that ran to its end."""


class Session:
    """One browser's side of the protocol."""

    def __init__(self, url: str) -> None:
        self.url, self.page, self.title = url.rstrip("/"), "", ""
        self.ticks: dict[str, asyncio.Task[None]] = {}
        self.ended = asyncio.Event()

    async def enter(self) -> None:
        address = self.url.replace("http", "ws") + "/_stcore/stream"
        self.socket = await websockets.connect(
            address, subprotocols=["streamlit"], origin=self.url, max_size=None, ping_interval=None
        )
        self.listening = asyncio.create_task(self._listen())

    async def leave(self) -> None:
        self._rest()
        self.listening.cancel()
        await self.socket.close()

    async def open(self, page: str) -> float | None:
        """Seconds until the page's script has ended; None where that was not told within a minute."""
        self._rest()
        self.page, self.title, self.ended = page, "", asyncio.Event()
        start = time.perf_counter()
        await self._ask()
        try:
            await asyncio.wait_for(self.ended.wait(), MOST)
        except TimeoutError:
            return None
        return time.perf_counter() - start

    async def _ask(self, fragment: str = "") -> None:
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string, asked.page_name = "view=1", self.page
        if fragment:
            asked.fragment_id, asked.is_auto_rerun = fragment, True
        await self.socket.send(message.SerializeToString())

    async def _listen(self) -> None:
        async for raw in self.socket:
            message = ForwardMsg()
            message.ParseFromString(raw)
            kind = message.WhichOneof("type")
            if kind == "script_finished" and message.script_finished == ENDED:
                self.ended.set()
            elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "heading":
                self.title = self.title or message.delta.new_element.heading.body
            elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
                raise RuntimeError(message.delta.new_element.exception.message)
            elif kind == "auto_rerun":
                fragment = message.auto_rerun.fragment_id
                if fragment in self.ticks:
                    self.ticks.pop(fragment).cancel()
                self.ticks[fragment] = asyncio.create_task(self._tick(message.auto_rerun.interval, fragment))

    async def _tick(self, every: float, fragment: str) -> None:
        while True:
            await asyncio.sleep(every)
            await self._ask(fragment)

    def _rest(self) -> None:
        for task in self.ticks.values():
            task.cancel()
        self.ticks.clear()


async def room(url: str, pid: int, count: int, rest: float = REST) -> list[str]:
    """A table row a page, all pages opened by ``count`` sessions at once."""
    people = [Session(url) for _ in range(count)]
    await asyncio.gather(*(one.enter() for one in people))
    rows, process = [], psutil.Process(pid)
    for page in PAGES:
        found = await asyncio.gather(*(one.open(page) for one in people))
        if not all(one.title for one in people):
            raise RuntimeError(f"{page or 'home'} showed no title to {sum(not one.title for one in people)} of {count}")
        told = sorted(seconds for seconds in found if seconds is not None)
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(rest)
        busy = (sum(process.cpu_times()[:2]) - before) / max(rest, 0.1)
        lost = f"; {count - len(told)} were not told the end" if len(told) < count else ""
        rows.append(f"| {count} | {page or 'home'} | {statistics.median(told):.2f} | {told[-1]:.2f}{lost} | {busy:.0%} |")
    await asyncio.gather(*(one.leave() for one in people))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="otherwise one with planted runs is made")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 12, 30])
    asked = parser.parse_args()
    os.environ["EMA_SHARED"] = "1"
    with own_home() as made:
        if not asked.home:
            homes.runs(made, RUNS)
        with served(asked.home or made) as (url, pid):
            asyncio.run(room(url, pid, 1, rest=0.0))  # warm: the first visit reads what all share
            print(
                "| browsers | page | median s | slowest s | server's CPU while all rest there, of a core |\n|---|---|---|---|---|"
            )
            for count in asked.people:
                print("\n".join(asyncio.run(room(url, pid, count))), flush=True)


if __name__ == "__main__":
    main()
