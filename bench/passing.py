"""What passing a stream through costs over a plain byte proxy: the same server, the same client, the same upstream.

    python -m bench.passing

The same 64 chunks, burst and paced, in interleaved rounds: `bytes` hands on what comes, by the gateway's own shortcut
from socket to socket; `asgi bytes` does so as any ASGI application would, reading a piece and sending it; `passed` is all
that the gateway does for a piece that goes through untouched, with notes and checkpoints; `translated` turns it into
another dialect (chat chunks into Anthropic's events). `..., counted` are the frames of an engine that counts in every one,
as vLLM is asked to: there `passed` cuts the counts out. Each is a process of its own; admission and settlement are in none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import uvicorn
import uvloop

from bench.cells import CELLS, Cell
from bench.loader import Loader
from bench.ports import free_port, until_open
from bench.processors import Meter, go_first, pinned, two_cores
from bench.stages import build_line, granted_exchange
from engines.adapter import StreamReader
from engines.anthropic.client_writing import MessagesWriter
from engines.chat_stream import ChatStream
from engines.forms import Forms
from engines.http1.transport import Http1Transport
from engines.openai_chat.provider import ChatReader
from engines.openai_chat.whole import TranslatedChat
from gateway.http.answering import lines_of
from gateway.http.connection import Connection
from gateway.http.outlet import outlet
from gateway.pipeline.meter import take_over
from gateway.pipeline.passage import Passage
from gateway.spool.writer import SpoolWriter

COUNTED = ", counted"
ASGI = "asgi bytes"
WAYS = (ASGI, "bytes", "passed", "translated", f"{ASGI}{COUNTED}", f"bytes{COUNTED}", f"passed{COUNTED}")
_ASKED = b'"include_usage":true'
_LIMIT = 1 << 20
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
ROOT = Path(__file__).parents[1]


def application(upstream_port: int, way: str, home: Path) -> Any:
    """The ASGI application of one way."""
    transport = Http1Transport(f"http://127.0.0.1:{upstream_port}")
    line = build_line(home, SpoolWriter(home / "spool"))
    forms = Forms()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if way.endswith(COUNTED):
            body = body.replace(_ASKED, _ASKED + b',"continuous_usage_stats":true')
        exchange = granted_exchange(line)
        opened = await transport.open("/v1/chat/completions", body, {"x-request-id": exchange.id_text})
        if way.startswith(ASGI):
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            while piece := await opened.read():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        to = outlet(scope, send, lambda: lines_of(_HEADERS))
        reader: StreamReader = ChatStream(show_usage=True, show_running=False, limit=_LIMIT, forms=forms)
        if way == "translated":
            writer = MessagesWriter(model="mixtral-demo")
            reader = TranslatedChat(
                ChatReader(), writer, limit=_LIMIT, most=None, show_usage=True, forms=forms
            )
        if way.startswith("bytes"):
            while not await opened.pump(to.write):
                await to.ready()
        else:
            # As the line does it: open_stream reads the first piece, and an answer that is whole with it needs no passage.
            frames = reader.feed(await opened.read())
            if reader.done:
                take_over(exchange, reader)
            else:
                passage = Passage(line, exchange, reader, to)
                passage.pass_on(frames)
                while not reader.done:
                    await to.ready()
                    await passage.pump(opened)
                frames = passage.held
            opened.let_go()
            if exchange.slot >= 0:
                line.spool.running.end(exchange.slot)
            to.write(frames + reader.terminal())
        await to.end()

    return app


async def serve(port: int, upstream_port: int, way: str, home: Path) -> None:
    """Serve one way until killed."""
    config = uvicorn.Config(
        application(upstream_port, way, home), http=Connection, ws="none", lifespan="off", loop="none", port=port,
        access_log=False, log_config=None, server_header=False, date_header=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve()


async def measure(
    rounds: int, seconds: float, home: Path, names: Sequence[str]
) -> dict[tuple[str, str], list[float]]:
    """(cell, way) -> processor milliseconds a stream, one figure a round."""
    cores = two_cores()
    keys = home / "keys"
    keys.write_text("nobody\n")
    upstream_port = free_port()
    children: list[asyncio.subprocess.Process] = []
    ports: dict[str, int] = {}
    found: dict[tuple[str, str], list[float]] = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        with pinned(cores[0]):
            arguments = ["-m", "tests.faults.upstream", "--port", str(upstream_port)]
            children.append(
                await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, env=environment)
            )
        await until_open(upstream_port, "upstream", home / "none")
        with pinned(cores[1]):
            for way in WAYS:
                ports[way] = free_port()
                (home / way).mkdir()
                arguments = ["-m", "bench.passing", "--serve", way, "--port", str(ports[way])]
                arguments += ["--upstream", str(upstream_port), "--home", str(home / way)]
                children.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, *arguments, cwd=ROOT, env=environment
                    )
                )
        for way in WAYS:
            await until_open(ports[way], way, home / "none")
        loader = await Loader.start(keys, cores[0])
        try:
            for number in range(-1, rounds):
                for cell in (each for each in CELLS if each.stream and each.name in names):
                    for way, child in zip(WAYS, children[1:], strict=True):
                        figure = await _once(
                            loader, cell, ports[way], child.pid, 0.3 if number < 0 else seconds
                        )
                        if number >= 0:
                            found.setdefault((cell.title, way), []).append(figure)
        finally:
            await loader.stop()
    finally:
        for child in children:
            child.kill()
            await child.wait()
    return found


async def _once(loader: Loader, cell: Cell, port: int, pid: int, seconds: float) -> float:
    meter = Meter({"way": (pid,)})
    meter.start()
    done = await loader.run(cell, port, seconds=seconds, most=10**6)
    if done["failed"] or not done["calls"]:
        raise RuntimeError(f"{cell.name}: {done['failed']} streams failed: {done['quotes']}")
    return meter.stop()["way"] / done["calls"]


def table(found: dict[tuple[str, str], list[float]]) -> str:
    """Medians, and the medians of the ratios to both byte proxies, taken round by round."""
    lines = [
        f"| cell | way | CPU ms a stream (least-most) | over {ASGI} | over bytes |",
        "|---|---|---|---|---|",
    ]
    for (cell, way), figures in found.items():
        counted = COUNTED if way.endswith(COUNTED) else ""
        over = [
            f"{median(mine / floor - 1 for mine, floor in zip(figures, floors, strict=True)):+.0%}"
            for floors in (found[cell, ASGI + counted], found[cell, "bytes" + counted])
        ]
        spread = f"{median(figures):.3f} ({min(figures):.3f}-{max(figures):.3f})"
        lines.append(f"| {cell} | {way} | {spread} | {' | '.join(over)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print, or serve one way."""
    parser = argparse.ArgumentParser(prog="python -m bench.passing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one way's turn in a round (2)")
    parser.add_argument("--cells", default="burst-16,paced-16", help="some cells (burst-16,paced-16)")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.port, options.upstream, options.serve, options.home))
        return
    go_first()
    with tempfile.TemporaryDirectory(prefix="wb-passing-") as home:
        print(
            table(asyncio.run(measure(options.rounds, options.seconds, Path(home), options.cells.split(","))))
        )


if __name__ == "__main__":
    main()
