"""The real embedding model on its own vLLM behind the gateway: `make soak ARGS="-k embedding_model -s"` prints what it takes.

Not in `make test`: another vLLM needs a minute to start, and the suite holds all but its vectors on a stand-in.
"""

from __future__ import annotations

import asyncio
import base64
import statistics
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from engines.local.embedder import DIMENSIONS, fetch, spec_of
from engines.local.environment import install
from engines.local.launch import EMBEDDER_NAME, EngineSpec
from engines.local.process import EngineProcess
from engines.local.serving import embedding
from tests.faults.upstream import Upstream
from tests.system.asking import Answer
from tests.system.deployment import Deployment

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]

ALIKE = ("How is a request billed?", "In which way are calls charged for?")
OTHER = "The cat sleeps on the warm stove."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(homes: Path) -> AsyncIterator[EngineSpec]:
    """The embedding model, served as `weighbridge embedder` serves it."""
    root = Path("var").resolve()
    made = await install(root / "engine-venv", lambda line: print(f"engine: {line}"))
    began = time.monotonic()
    weights = await fetch(homes / "embedder", lambda line: print(f"embedder: {line}"))
    print(f"weights there after {time.monotonic() - began:.0f} s")
    folder = homes / "e"
    folder.mkdir()
    spec = spec_of(
        made,
        weights,
        embedding(()),
        socket=folder / "e.sock",
        cache=root / "engine-cache",
        log=folder / "log",
    )
    process = EngineProcess(spec)
    began = time.monotonic()
    await process.start()
    try:
        await process.wait_ready(300)
        print(f"up after {time.monotonic() - began:.0f} s, {memory_of(process.pid or 0) >> 20} MB")
        yield spec
    finally:
        await asyncio.shield(process.stop())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path, database_url: str, module_redis: str, upstream: Upstream, model: EngineSpec
) -> AsyncIterator[Deployment]:
    """Two workers that know where it is, and its endpoint."""
    made = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=upstream.url,
        workers=2,
        environment={"WEIGHBRIDGE_EMBEDDER_URL": model.url},
    )
    async with made:
        entity = {"name": "it", "kind": "local", "provider": "vllm", "model": EMBEDDER_NAME}
        endpoint = {"name": EMBEDDER_NAME, "task": "llm/v1/embeddings", "served_entities": [entity]}
        await made.administer("POST", "/endpoints", endpoint)
        yield made


def memory_of(pid: int) -> int:
    """What a process and its children hold, shared pages in proportion."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (own,) = [int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:")]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(memory_of(int(each)) for each in children)


async def embed(gateway: Deployment, given: Any, **more: Any) -> Answer:
    body = {"model": EMBEDDER_NAME, "input": given, **more}
    return await gateway.ask("POST", "/v1/embeddings", body, key=gateway.admin_key, timeout=120)


def vectors(answer: Answer) -> list[list[float]]:
    """In the order of the texts."""
    assert answer.status == 200, answer
    found: list[list[float]] = []
    for each in answer.json()["data"]:
        told = each["embedding"]
        if isinstance(told, str):
            packed = base64.b64decode(told)
            told = list(struct.unpack(f"<{len(packed) // 4}f", packed))
        found.append(told)
    return found


def inner(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_its_vectors_say_what_texts_mean_and_are_the_models_own(
    gateway: Deployment, model: EngineSpec
) -> None:
    answer = await embed(gateway, [*ALIKE, OTHER])
    first, second, third = found = vectors(answer)
    assert {len(each) for each in found} == {DIMENSIONS}
    assert all(abs(inner(each, each) - 1) < 1e-3 for each in found)
    alike, apart = inner(first, second), max(inner(first, third), inner(second, third))
    print(f"cosines: {alike:.2f} of the same question in other words, {apart:.2f} of another sentence")
    assert alike > 0.5 > 0.3 > apart
    packed = vectors(await embed(gateway, [*ALIKE, OTHER], encoding_format="base64"))
    assert all(inner(one, other) > 0.999 for one, other in zip(found, packed, strict=True))
    connector = aiohttp.UnixConnector(str(model.socket))
    async with aiohttp.ClientSession(connector=connector, base_url="http://engine") as session:
        asked = {"model": EMBEDDER_NAME, "input": [*ALIKE, OTHER]}
        async with session.post("/v1/embeddings", json=asked) as told:
            own = await told.json()
    assert answer.json()["usage"]["prompt_tokens"] == own["usage"]["prompt_tokens"]
    assert inner(first, own["data"][0]["embedding"]) > 0.999
    row = await gateway.row_of(answer.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (own["usage"]["prompt_tokens"], 0)


async def test_what_it_cannot_do_is_a_bad_request(gateway: Deployment) -> None:
    assert (await embed(gateway, "word " * 400)).status == 400
    assert (await embed(gateway, "word", dimensions=64)).status == 400


async def test_how_fast_it_is(gateway: Deployment) -> None:
    took: list[float] = []
    for number in range(20):
        began = time.monotonic()
        vectors(await embed(gateway, f"How is request {number} billed?"))
        took.append(time.monotonic() - began)
    began = time.monotonic()
    many = vectors(await embed(gateway, [f"{OTHER} It is cat number {number}." for number in range(256)]))
    assert len(many) == 256
    print(
        f"one text {statistics.median(took) * 1000:.0f} ms at the median, 256 sentences"
        f" {time.monotonic() - began:.1f} s"
    )
