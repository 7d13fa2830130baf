"""The processes themselves: what a worker holds at rest, and how it goes when it is told to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.faults.load import Mix, calls, drive
from tests.faults.reconcile import reconcile, report
from tests.faults.upstream import Upstream
from tests.system.asking import Answer, request_bytes
from tests.system.deployment import ENDPOINT, Deployment, chat
from tests.system.each_worker import each_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
ENGINES_WORLD = re.compile(r"/(torch|transformers|vllm|tokenizers|safetensors)(/|-|\.)")


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


async def test_a_worker_has_little_memory_of_its_own_and_nothing_of_the_engines_world(
    gateway: Deployment,
) -> None:
    for _ in range(20):
        await gateway.ask("POST", CHAT, chat("[[tokens=8]]", stream=True), key=gateway.keys["bulk"])
    for pid in gateway.everybody():
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", told, re.MULTILINE)}
        own = kib["Private_Clean"] + kib["Private_Dirty"]
        print(f"process {pid}: {kib['Rss'] >> 10} MiB, of which {own >> 10} are its own")
        # Forked from one that has imported everything: what is shared is counted in every one of them.
        assert kib["Rss"] * 1.024e-3 < 150
        assert own * 1.024e-3 < 60
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert not ENGINES_WORLD.search(mapped)


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        (
            "gateway.worker, gateway.drain, gateway.app",
            "torch transformers vllm tokenizers safetensors numpy",
        ),
        # Each is 8 MB or more, for the control plane, tokens of issuers or credentials of providers: imported with them.
        (
            "gateway.__main__, gateway.worker",
            "litestar sqlalchemy alembic jwt cryptography aiohttp redis httpx",
        ),
    ],
)
async def test_a_worker_imports_nothing_that_it_may_never_need(imported: str, unwanted: str) -> None:
    code = (
        f"import sys, {imported}; unwanted = '{unwanted}'.split();"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & set(unwanted)))"
    )
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, _ = await made.communicate()
    assert out.decode().strip() == "[]"


async def test_a_worker_told_to_end_finishes_its_streams_and_takes_no_new_connection(
    gateway: Deployment, upstream: Upstream
) -> None:
    pids = gateway.workers()
    body = chat("[[tokens=60 delay=50ms]]", stream=True, max_tokens=60)
    streams = [
        asyncio.create_task(gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])) for _ in range(8)
    ]
    await upstream.until(lambda records: sum(r.ended == "open" for r in records) == 8)
    asked_at = time.monotonic()
    await gateway.kill("worker-0", signal.SIGTERM)
    ended_after = time.monotonic() - asked_at
    answers: list[Answer] = await asyncio.gather(*streams)
    for each in answers:
        assert each.events()[-1] == "[DONE]"
    assert gateway.workers()[0] != pids[0]
    assert ended_after < 10
    await gateway.ready()
    rows = {str(row["request_id"]): row for row in await gateway.ledger_rows()}
    await gateway.drained()
    rows = {str(row["request_id"]): row for row in await gateway.ledger_rows()}
    assert all(rows[each.request_id]["status"] == "ok" for each in answers)
    print(f"ended {ended_after:.1f} s after it was told to, with its streams of 3 s complete")


async def test_a_worker_told_to_end_answers_who_has_connected_and_is_about_to_ask(
    gateway: Deployment,
) -> None:
    sent = request_bytes("POST", CHAT, chat("[[tokens=2]]"), key=gateway.keys["bulk"])
    async with each_worker(gateway) as idle:
        opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(24)]
        for _, writer in opened[::2]:
            writer.write(sent[:40])
        # A call on a connection of its own: by now every worker has taken those before it.
        assert (await gateway.ask("GET", "/healthz")).status == 200
        os.kill(gateway.workers()[0], signal.SIGTERM)
        # Idle connections end at once, so that this says when the worker has been told.
        told = [asyncio.create_task(each.ended()) for each in idle]
        await asyncio.wait(told, return_when="FIRST_COMPLETED", timeout=30)
        for each in told:
            each.cancel()
        for number, (_, writer) in enumerate(opened):
            # Half of them have connected and said nothing, the others have begun to ask.
            writer.write(sent if number % 2 else sent[40:])
        heads = await asyncio.gather(*(reader.read(16) for reader, _ in opened))
        assert {each[:12] for each in heads} == {b"HTTP/1.1 200"}
        for _, writer in opened:
            writer.close()
    await gateway.ready()


async def test_restarting_workers_one_after_the_other_under_load_loses_no_call(
    gateway: Deployment, upstream: Upstream, seed: int
) -> None:
    """A rolling restart: connections that come meanwhile wait in the socket's queue."""
    seen = len(upstream.records)
    stop = asyncio.Event()
    mix = Mix(weights={(False, "never"): 1, (True, "never"): 1}, model=ENDPOINT)
    specs = calls(seed=seed, keys=[gateway.keys["bulk"]], mix=mix)
    running = asyncio.create_task(drive(gateway.target, specs, rate=25, stop=stop))
    for name in ("worker-0", "worker-1", "drainer"):
        await asyncio.sleep(0.5)
        await gateway.kill(name, signal.SIGTERM)
        await gateway.ready()
    stop.set()
    transcripts = await running
    # A keep-alive connection may close under a request that is on its way: such a call never reached anybody.
    lost = [t for t in transcripts if t.how not in ("complete", "left")]
    assert all(t.how == "unreachable" or t.status == 503 for t in lost), lost
    assert len(lost) <= len(transcripts) // 20, lost
    print(f"{len(transcripts)} calls, {len(lost)} had to be repeated")
    await gateway.drained()
    ids = {t.request_id for t in transcripts}
    rows = [row for row in await gateway.ledger_rows() if str(row["request_id"]) in ids]
    found = reconcile(rows, [r for r in upstream.records[seen:] if r.request_id in ids], transcripts)
    assert not found, report(found)
