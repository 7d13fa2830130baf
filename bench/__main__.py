"""`python -m bench`: start everything, measure in interleaved rounds, check the books, then print.

Exits with 1 and prints no figure when the books do not balance, or something did not start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.books import Books, Unbalanced
from bench.cells import CELLS, Cell
from bench.deployment import Deployment
from bench.loader import Loader
from bench.nginx import Nginx, program
from bench.peers import NAMES, Peer, found_litellm, found_portkey, start_litellm, start_portkey
from bench.picture import draw
from bench.ports import NotUp
from bench.processors import go_first, hurry, own_mb, pinned, rss_mb, two_cores
from bench.profile import sample
from bench.report import measured, medians, tables
from bench.rounds import Rounds
from bench.stages import table as stages

OUT = Path(__file__).parent / "out"


def say(words: str) -> None:
    """To the person who waits; figures go to stdout only at the end."""
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all cells (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one cell (3)")
    parser.add_argument("--keys", type=int, default=10_000, help="API keys that call at random (10,000)")
    parser.add_argument(
        "--cells", default=",".join(each.name for each in CELLS), help="which cells, by name, with commas"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round of one second, 500 keys: does it work?"
    )
    parser.add_argument("--without-nginx", action="store_true", help="absolute figures only")
    parser.add_argument(
        "--peers", default="", help=f"other gateways to measure beside, with commas: {', '.join(NAMES)}"
    )
    parser.add_argument("--litellm", type=Path, help="LiteLLM's command, if it is not on the path")
    parser.add_argument("--portkey", type=Path, help="folder in which npm installed @portkey-ai/gateway")
    parser.add_argument(
        "--profile", action="store_true", help="sample the worker with py-spy instead of measuring"
    )
    parser.add_argument("--native", action="store_true", help="with --profile: C functions too")
    parser.add_argument("--keep", action="store_true", help="keep the stores and logs of the run")
    parser.add_argument("--home", type=Path, help="where the run's stores and logs go (a fresh folder)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.keys = 1, min(options.keys, 500)
        options.seconds = min(options.seconds, 6.0 if options.profile else 1.0)
    return options


def _chosen(names: str) -> list[Cell]:
    known = {each.name: each for each in CELLS}
    unknown = [each for each in names.split(",") if each not in known]
    if unknown:
        raise SystemExit(f"There is no cell {unknown[0]!r}; there are {', '.join(known)}.")
    return [known[each] for each in names.split(",")]


async def bench(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Run it all; everything that is to be said of it. Raises Unbalanced or NotUp."""
    cells = _chosen(options.cells)
    cores = two_cores()
    if not go_first():
        say("Niceness -10 is not allowed here: other processes will show in the figures.")
    if cores[0] == cores[1]:
        say("There is one core only: load and gateway share it; read CPU, not calls/s.")
    found = None if options.without_nginx else program()
    if found is None:
        say("nginx is not here: absolute figures only.")
    say(f"Starting stores, upstream, worker and drainer; {options.keys:,} keys ...")
    nginx = None
    peers: list[Peer] = []
    async with Deployment(home, keys=options.keys, cores=cores, environment={}) as deployment:
        loader = await Loader.start(deployment.keys_file, cores[0])
        books = await Books.open(deployment.database_url, deployment.redis_url)
        try:
            if found is not None:
                nginx = await _nginx(home, found, deployment, cores[1])
            peers = await _peers(options, home, deployment, cores[1])
            rest, rest_own = rss_mb(deployment.worker.pid), own_mb(deployment.worker.pid)
            rounds = Rounds(deployment, loader, books, nginx, peers=peers, seconds=options.seconds, say=say)
            say("Warming up: every key once ...")
            await rounds.warm_up(cells)
            if options.profile:
                return await _profile(options, deployment, loader, cells)
            for number in range(options.rounds):
                say(f"Round {number + 1} of {options.rounds}")
                await rounds.round(cells)
            memory = {
                "worker_at_rest_mb": rest,
                "worker_mb": rss_mb(deployment.worker.pid),
                "worker_at_rest_own_mb": rest_own,
                "worker_own_mb": own_mb(deployment.worker.pid),
                "drainer_mb": rss_mb(deployment.drainer.pid),
            }
            beside = {peer.name: {"version": peer.version, "mb": peer.memory_mb()} for peer in peers}
            checked = await books.check()
        finally:
            await books.close()
            await loader.stop()
            for peer in peers:
                await peer.stop()
            if nginx is not None:
                await nginx.stop()
    return {
        "machine": machine(),
        "options": _plain(options),
        "memory": memory,
        "peers": beside,
        "books": checked,
        "samples": rounds.samples,
    }


async def _nginx(home: Path, found: str, deployment: Deployment, core: int) -> Nginx:
    nginx = Nginx(home / "nginx", deployment.upstream_port)
    with pinned(core):
        await nginx.start(found, as_root=os.geteuid() == 0)
    hurry(nginx.pid)
    return nginx


async def _peers(options: argparse.Namespace, home: Path, deployment: Deployment, core: int) -> list[Peer]:
    """Those that are asked for and installed, on the worker's core."""
    wanted = [each for each in options.peers.split(",") if each]
    if unknown := [each for each in wanted if each not in NAMES]:
        raise SystemExit(f"There is no peer {unknown[0]!r}; there are {', '.join(NAMES)}.")
    started: list[Peer] = []
    for name in wanted:
        where = found_litellm(options.litellm) if name == "litellm" else found_portkey(options.portkey)
        if where is None:
            say(f"{name} is not here (see --{name}): it is left out.")
            continue
        start = start_litellm if name == "litellm" else start_portkey
        with pinned(core):
            started.append(await start(where, home / name, deployment.upstream_port))
        hurry(started[-1].pid)
    return started


async def _profile(
    options: argparse.Namespace, deployment: Deployment, loader: Loader, cells: list[Cell]
) -> dict[str, Any]:
    OUT.mkdir(exist_ok=True)
    for cell in cells:
        for name, child in (("worker", deployment.worker), ("drainer", deployment.drainer)):
            into = OUT / f"profile-{cell.name}-{name}.txt"
            into.unlink(missing_ok=True)
            calls, lines = await sample(
                child.pid,
                loader,
                cell,
                deployment.port,
                seconds=max(options.seconds, 2),
                into=into,
                native=options.native,
            )
            print(f"\n## {cell.title}, {name}: {calls:,} calls\n" + "\n".join(lines))
    return {}


def machine() -> dict[str, str]:
    """What the figures were taken on and of."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=OUT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": f"{processor} x {os.cpu_count()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "version": git.stdout.strip() or "unknown",
        "load_before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _write(result: dict[str, Any]) -> Path:
    OUT.mkdir(exist_ok=True)
    found = medians(result["samples"])
    result["medians"] = found
    result["targets"] = {figure.name: value for figure, value in measured(found, result["memory"])}
    stem = OUT / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    told = result["machine"]
    caption = (
        f"{told['at']}, {told['version']}, {told['processor']}; medians of {result['options']['rounds']} rounds, "
        "line: least to most"
    )
    stem.with_suffix(".svg").write_text(draw(found, caption))
    return stem


def main() -> int:
    """Run and print; the exit status."""
    options = _options()
    home = options.home or Path(tempfile.mkdtemp(prefix="wb-bench-"))
    if os.geteuid() == 0 and options.home is None:
        home.chmod(0o711)
    try:
        result = asyncio.run(bench(options, home))
    except Unbalanced as error:
        say(f"The books do not balance, so there is no figure: {error}")
        return 1
    except NotUp as error:
        say(str(error))
        return 1
    finally:
        if not options.keep and options.home is None:
            shutil.rmtree(home, ignore_errors=True)
    if result:
        stem = _write(result)
        told = result["machine"]
        print(f"{told['at']}  {told['version']}  {told['processor']}  Python {told['python']}\n")
        print(tables(result["samples"], result["memory"], result["books"]))
        for name, each in result["peers"].items():
            print(f"{name} {each['version']}: {each['mb']:.0f} MB after.")
        say("\nThe steps of the line and the floor below them, alone in this process ...")
        print(f"\n{stages()}")
        say(f"\nWritten: {stem}.json, {stem}.svg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
