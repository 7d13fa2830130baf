"""Two adapters and the base in one real vLLM, behind the gateway: each its own model, with its own grants and price."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from engines.http1.transport import Http1Transport
from engines.local.adapter_keeper import AdapterKeeper
from engines.local.adapters import WEIGHTS
from engines.local.launch import SHIPPED_ADAPTERS, EngineSpec
from gateway.adapter_notes import FOLDER, read_standings, write_standings
from gateway.cli.adapters import upload
from gateway.cli.reach import AdminApi
from gateway.seed import SQL_ENDPOINT
from gateway.settings import Settings
from tests.system.asking import Answer
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

CHAT = "/v1/chat/completions"
SECOND = "mixtral-second"
QUESTION = "Show me cost by user this month."


def made_of_the_shipped_one(folder: Path, *, layer: str = "q_proj") -> Path:
    """The shipped adapter with matrices B of zero, so that it answers as the base does; `layer` renames its q_proj."""
    shutil.copytree(SHIPPED_ADAPTERS / SQL_ENDPOINT, folder)
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    head, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    for name, tensor in head.items():
        if name.endswith("lora_B.weight"):
            begin, end = tensor["data_offsets"]
            data[begin:end] = bytes(end - begin)
    told = json.dumps({name.replace("q_proj", layer): tensor for name, tensor in head.items()}).encode()
    (folder / WEIGHTS).write_bytes(len(told).to_bytes(8, "little") + told + data)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def adapters(homes: Path, engine: EngineSpec) -> AsyncIterator[Path]:
    """The folder that the running engine's adapters follow, as `weighbridge engine` keeps them."""
    folder, run_dir = homes / "gateway" / FOLDER, homes / "gateway" / "run"
    folder.mkdir(parents=True)
    transport = Http1Transport(engine.url)
    keeper = AdapterKeeper(
        transport, [SHIPPED_ADAPTERS, folder], lambda standings: write_standings(run_dir, standings)
    )
    keeping = asyncio.create_task(keeper.keep())
    yield folder
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    for path in folder.iterdir():
        shutil.rmtree(path)
    await keeper.look()
    await transport.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(
    homes: Path, database_url: str, module_redis: str, engine: EngineSpec, adapters: Path
) -> AsyncIterator[Deployment]:
    """Two workers before the engine that has them."""
    async with Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=engine.url,
        workers=2,
    ) as made:
        yield made


async def standing(gateway: Deployment, name: str, loaded: bool) -> str:
    """Wait until an adapter stands so; why it is not loaded."""
    async with asyncio.timeout(60):
        while True:
            found = read_standings(gateway.home / "run").get(name)
            if found is not None and found.loaded is loaded and (loaded or found.reason):
                return found.reason
            await asyncio.sleep(0.1)


async def ask(gateway: Deployment, model: str, key: str, question: str = QUESTION) -> Answer:
    return await gateway.ask("POST", CHAT, chat(question, model=model, max_tokens=80, temperature=0), key=key)


def admin_api(gateway: Deployment, folder: Path) -> AdminApi:
    """The gateway's admin API as the command line reaches it; the key is left in the folder."""
    key = folder / "key"
    key.write_text(gateway.admin_key)
    port = str(urlsplit(gateway.url).port)
    return AdminApi(Settings.from_env({"WEIGHBRIDGE_HOME": str(gateway.home), "WEIGHBRIDGE_PORT": port}), key)


async def test_each_answers_as_itself_for_those_who_may_at_its_own_price(
    gateway: Deployment, adapters: Path, tmp_path: Path
) -> None:
    source = made_of_the_shipped_one(tmp_path / SECOND)
    told = await asyncio.to_thread(upload, admin_api(gateway, tmp_path), source, None)
    assert "rank 32" in told
    assert (adapters / SECOND / WEIGHTS).exists()
    await standing(gateway, SECOND, loaded=True)
    await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": SECOND,
            "served_entities": [{"name": SECOND, "kind": "local", "provider": "vllm", "model": SECOND}],
        },
    )
    base = await ask(gateway, ENDPOINT, gateway.demo_key)
    sql = await ask(gateway, SQL_ENDPOINT, gateway.demo_key)
    second = await ask(gateway, SECOND, gateway.admin_key)
    assert [each.json()["model"] for each in (base, sql, second)] == ["mixtral-demo", SQL_ENDPOINT, SECOND]
    said = [each.json()["choices"][0]["message"]["content"].strip() for each in (base, sql, second)]
    assert said[1] == (
        "SELECT principal_name, sum(cost_usd) FROM billing.spend"
        " WHERE usage_date >= date_trunc('month', current_date) GROUP BY 1 ORDER BY 2 DESC;"
    )
    assert said[0] == said[2] != said[1]
    refused = await ask(gateway, SECOND, gateway.demo_key)
    assert refused.status == 403
    rows = [await gateway.row_of(each.request_id) for each in (base, sql)]
    assert [row["model"] for row in rows] == ["mixtral-demo", SQL_ENDPOINT]
    costs = [row["cost_nano_usd"] / (row["prompt_tokens"] * 1 + row["completion_tokens"] * 2) for row in rows]
    assert costs[1] == pytest.approx(costs[0] * 1.2)


async def test_an_adapter_that_does_not_load_leaves_the_others_and_says_why(
    gateway: Deployment, adapters: Path
) -> None:
    made_of_the_shipped_one(adapters / "mixtral-broken", layer="nothing_proj")
    why = await standing(gateway, "mixtral-broken", loaded=False)
    assert why
    await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": "mixtral-broken",
            "served_entities": [
                {"name": "broken", "kind": "local", "provider": "vllm", "model": "mixtral-broken"}
            ],
        },
    )
    async with asyncio.timeout(30):
        while True:
            told = await ask(gateway, "mixtral-broken", gateway.admin_key)
            if "cannot be loaded" in told.body.decode():
                break
            await asyncio.sleep(0.5)
    assert told.status == 503
    assert (await ask(gateway, ENDPOINT, gateway.demo_key)).status == 200
    assert (await ask(gateway, SQL_ENDPOINT, gateway.demo_key)).status == 200


async def test_adapters_come_change_and_go_under_traffic_without_a_failed_call(
    gateway: Deployment, adapters: Path
) -> None:
    stop = asyncio.Event()
    failed: list[str] = []
    made = 0

    async def traffic(model: str) -> None:
        nonlocal made
        while not stop.is_set():
            answer = await ask(gateway, model, gateway.admin_key)
            made += 1
            if answer.status != 200:
                failed.append(f"{model} {answer.status} {answer.body[:200]!r}")

    running = [asyncio.create_task(traffic(model)) for model in (ENDPOINT, SQL_ENDPOINT, SQL_ENDPOINT)]
    for _ in range(3):
        made_of_the_shipped_one(adapters / "mixtral-passing")
        await standing(gateway, "mixtral-passing", loaded=True)
        shutil.rmtree(adapters / "mixtral-passing")
        async with asyncio.timeout(60):
            while "mixtral-passing" in read_standings(gateway.home / "run"):
                await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*running)
    assert not failed, failed
    assert made
    print(f"{made} calls while an adapter came and went three times: none failed")
