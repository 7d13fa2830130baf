"""Workers that take tokens, over a real database, with issuers' key sets and clocks in the test's hands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from gateway.security.jwks import JwksError
from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.security.sessions import Sessions
from gateway.security.tokens import TokenVerifier
from gateway.store import database
from gateway.store.arrivals import arrive
from gateway.store.callers import Callers
from gateway.store.catalog import FollowedCatalog
from gateway.store.changes import Actor, Configuration
from gateway.store.issuers import create_issuer
from gateway.store.keys import StoredKeys
from policies.principal import Caller
from tests.admin.conftest import deployment, shared_deployment  # noqa: F401 - fixtures
from tests.identity.signing import AUDIENCE, ISSUER, Signer

ROOT = Actor(None, "tests")
SEALING = Sealing({1: b"s" * 32})
PEPPERS = Peppers({1: b"p" * 32})


@dataclass
class Published:
    """What issuers publish, by address, and how often it was asked for."""

    documents: dict[str, bytes] = field(default_factory=dict)
    fetches: int = 0

    async def fetch(self, address: str) -> bytes:
        self.fetches += 1
        if address not in self.documents:
            raise JwksError("it is away")
        return self.documents[address]


@dataclass
class Clock:
    """A clock that only the test moves."""

    now: float = 10_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """What one gateway worker holds."""

    callers: Callers
    catalog: FollowedCatalog
    sessions: Sessions

    async def ask(self, credential: str) -> Caller:
        caller = self.callers.known(credential)
        return caller or await self.callers.verify(credential, self.catalog.snapshot)


@pytest.fixture
async def configuration(database_url: str) -> AsyncIterator[Configuration]:
    engine = database.engine(database_url, size=4)
    yield Configuration(engine, b"c" * 32)
    await engine.dispose()


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def workers(database_url: str, published: Published) -> AsyncIterator[Callable[[], Awaitable[Worker]]]:
    made: list[tuple[Worker, StoredKeys, TokenVerifier, Any, Any]] = []

    async def make() -> Worker:
        catalog = FollowedCatalog(database_url)
        engine = database.engine(database_url, size=4)
        connections = database.Connections(database_url)
        keys = StoredKeys(connections, PEPPERS, catalog)
        verifier = TokenVerifier(SEALING, fetch=published.fetch, clock=time.time, monotonic=time.monotonic)
        sessions = Sessions({1: b"t" * 32}, time.time)
        callers = Callers(
            keys,
            verifier,
            sessions,
            catalog,
            partial(arrive, Configuration(engine, b"c" * 32)),
            clock=time.time,
        )
        await catalog.start()
        worker = Worker(callers, catalog, sessions)
        made.append((worker, keys, verifier, engine, connections))
        return worker

    yield make
    for worker, keys, verifier, engine, connections in made:
        await verifier.close()
        await keys.stop()
        await worker.catalog.stop()
        await connections.close()
        await engine.dispose()


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def configure(configuration: Configuration, signer: Signer) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Configures an issuer of its own `iss`, with the signer's key."""

    async def configured(issuer: str = ISSUER, **more: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": issuer.removeprefix("https://"), "issuer": issuer, "audience": AUDIENCE, "family": "RS", "jwks_uri": None,
            "allow_loopback_http": False, "public_keys": signer.jwks, "secret": None, "principal_claim": "sub",
            "name_claim": "sub", "groups_claim": None, "kind": "user", "create_principals": True, "replace_groups": False,
            "max_age_seconds": 3600, "leeway_seconds": 30, "planes": ["control", "data"], "enabled": True, **more,
        }  # fmt: skip
        async with configuration.change(ROOT) as change:
            return dict(await create_issuer(change, SEALING, values))

    return configured
