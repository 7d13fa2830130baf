"""The whole HTTP front over a real database, as an administrator, a plain user and others see it.

A module's tests share one deployment and its loop; each begins with empty counters and the keys of the seed.
"""

from __future__ import annotations

import asyncio
import json as texts
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from litestar import Litestar

from engines.local.models import local_model
from gateway.adapter_shelf import AdapterShelf
from gateway.app import Front, create_app
from gateway.counters.levels import CounterLevels
from gateway.embedded.redis import EmbeddedRedis
from gateway.http.admin.access import ControlPlane
from gateway.http.entrance import Entrance
from gateway.http.operations import Operations
from gateway.http.plane import DataPlane
from gateway.security.jwks import fetch
from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.security.secrets import Purpose, load_master_key
from gateway.security.sessions import Sessions
from gateway.security.tokens import TokenVerifier
from gateway.seed import ENDPOINT, seed
from gateway.settings import Settings
from gateway.store import database
from gateway.store.api_keys import NewKey, create_key
from gateway.store.arrivals import arrive
from gateway.store.callers import Callers
from gateway.store.catalog import FollowedCatalog
from gateway.store.changes import Actor, Configuration
from gateway.store.keys import StoredKeys
from gateway.store.principals import create_principal
from gateway.store.roles import set_roles
from gateway.store.tables.identity import principals


@dataclass
class Deployment:
    """A seeded deployment with its front, and keys to ask it with."""

    app: Litestar
    entrance: Entrance
    configuration: Configuration
    catalog: FollowedCatalog
    peppers: Peppers
    chain_key: bytes
    client: httpx.AsyncClient
    home: Path
    control: ControlPlane
    keys: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, method: str, path: str, as_: str | None = "admin", json: Any = None, **headers: str
    ) -> httpx.Response:
        """One request, without the client: of thousands, its share of each was more than the gateway's."""
        sent = {"host": "gateway", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if as_ is not None:
            sent["authorization"] = f"Bearer {self.keys[as_]}"
        body = b""
        if json is not None:
            body = texts.dumps(json, ensure_ascii=False, allow_nan=False).encode()
            sent |= {"content-type": "application/json", "content-length": str(len(body))}
        url = httpx.URL(f"http://gateway{path}")
        scope: Any = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "server": ("gateway", 80), "client": ("127.0.0.1", 123), "method": method, "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0], "query_string": url.query,
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        }  # fmt: skip
        whole = [body]
        ended = asyncio.Event()
        came: list[Any] = []

        async def receive() -> Any:
            if whole:
                return {"type": "http.request", "body": whole.pop(), "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            came.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.set()

        await self.entrance(scope, receive, send)
        assert ended.is_set()
        content = b"".join(each.get("body", b"") for each in came[1:])
        return httpx.Response(came[0]["status"], headers=came[0].get("headers", []), content=content)

    async def made(self, path: str, body: Any) -> Any:
        """What an administrator created."""
        answer = await self.ask("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def changed(self, method: str, path: str, body: Any = None, as_: str = "admin") -> httpx.Response:
        """A change of what is at the path as it is now."""
        tag = (await self.ask("GET", path, as_)).headers["etag"]
        return await self.ask(method, path, as_, json=body, if_match=tag)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_deployment(
    database_url: str, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    """The module's deployment."""
    tmp_path = tmp_path_factory.mktemp("home")
    settings = Settings.from_env({"WEIGHBRIDGE_HOME": str(tmp_path)})
    await seed(settings, database_url)
    master = load_master_key(settings.secret_file)
    peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
    engine = database.engine(database_url, size=4)
    catalog = FollowedCatalog(database_url)
    connections = database.Connections(database_url)
    keys = StoredKeys(connections, peppers, catalog)
    chain_key = master.derive(Purpose.AUDIT_CHAIN)
    configuration = Configuration(engine, chain_key)
    sealing = Sealing(master.derive_all(Purpose.CREDENTIALS))
    sessions = Sessions(master.derive_all(Purpose.SESSIONS), time.time)
    verifier = TokenVerifier(sealing, fetch=fetch, clock=time.time, monotonic=time.monotonic)
    callers = Callers(keys, verifier, sessions, catalog, partial(arrive, configuration), clock=time.time)
    levels = CounterLevels(redis_server.url())
    control = ControlPlane(
        callers,
        catalog,
        configuration,
        peppers,
        sealing,
        sessions,
        levels,
        frozenset({"127.0.0.1"}),
        adapters=AdapterShelf(tmp_path, local_model(None)),
    )
    plane = DataPlane(_no_line())
    app = create_app(Front(plane, control, lambda _: True))
    entrance = Entrance(plane, Operations(list, lambda: b""), lambda: app)
    made = {
        "admin": (tmp_path / "admin.key").read_text().strip(),
        "demo": (tmp_path / "demo.key").read_text().strip(),
    }
    async with configuration.change(Actor(None, "tests")) as change:
        found = await change.rows(principals, principals.c.name == "auditor")
        if not found:
            auditor = await create_principal(change, "user", {"name": "auditor"})
            await set_roles(change, auditor, "user", frozenset({"auditor"}))
            found = [auditor]
        made["auditor"] = (await create_key(change, peppers, NewKey(found[0]["id"])))[1]
    await catalog.start()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(entrance), base_url="http://gateway"
    ) as client:
        yield Deployment(
            app, entrance, configuration, catalog, peppers, chain_key, client, tmp_path, control, made
        )
    await verifier.close()
    await levels.close()
    await keys.stop()
    await catalog.stop()
    await connections.close()
    await engine.dispose()


@pytest.fixture
def deployment(shared_deployment: Deployment, redis_url: str) -> Iterator[Deployment]:
    """That deployment, with empty counters, for one test; keys that the test adds are forgotten after it."""
    known, guesses = dict(shared_deployment.keys), shared_deployment.control.keys._guesses
    yield shared_deployment
    shared_deployment.keys, shared_deployment.control.keys._guesses = known, guesses


def _no_line() -> Any:
    """A data plane that no request gets through: these tests are about the control plane."""
    return SimpleNamespace(
        monotonic_ns=lambda: 0,
        observer=SimpleNamespace(refused=lambda _: None),
        trail=SimpleNamespace(refused=lambda *_, **__: None),
    )


@pytest.fixture
def endpoint_name() -> str:
    return ENDPOINT


@pytest_asyncio.fixture(loop_scope="module")
async def served(deployment: Deployment) -> AsyncIterator[dict[str, str]]:
    """The environment of a command, beside a gateway that listens."""
    config = uvicorn.Config(deployment.app, host="127.0.0.1", port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield {"WEIGHBRIDGE_HOME": str(deployment.home), "WEIGHBRIDGE_PORT": str(port)}
    server.should_exit = True
    await serving
