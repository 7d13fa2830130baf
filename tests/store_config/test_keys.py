"""Keys against a real PostgreSQL: found once, forgotten when they change, served while the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import asyncpg
import pytest

from gateway.errors import Unauthenticated, Unavailable
from gateway.security.keys import Peppers, mint
from gateway.store import database
from gateway.store.api_keys import NewKey, create_key, revoke_key, rotate_key
from gateway.store.catalog import FollowedCatalog
from gateway.store.changes import Actor, Configuration
from gateway.store.keys import StoredKeys
from gateway.store.principals import add_member, create_group, create_principal, delete_principal
from gateway.store.tables.identity import api_key_uses, api_keys, groups, principals

numbers = count()


@dataclass
class Worker:
    """What one gateway worker holds."""

    keys: StoredKeys
    catalog: FollowedCatalog

    async def ask(self, credential: str) -> Any:
        caller = self.keys.known(credential)
        return caller or await self.keys.verify(credential, self.catalog.snapshot)


@pytest.fixture
async def workers(database_url: str, peppers: Peppers) -> AsyncIterator[Callable[[], Awaitable[Worker]]]:
    made: list[tuple[Worker, Any]] = []

    async def make() -> Worker:
        catalog = FollowedCatalog(database_url)
        connections = database.Connections(database_url)
        worker = Worker(StoredKeys(connections, peppers, catalog), catalog)
        await catalog.start()
        made.append((worker, connections))
        return worker

    yield make
    for worker, connections in made:
        await worker.keys.stop()
        await worker.catalog.stop()
        await connections.close()


async def a_user(configuration: Configuration, root: Actor) -> str:
    async with configuration.change(root) as change:
        return (await create_principal(change, "user", {"name": f"user{next(numbers)}"}))["id"]


async def a_key(
    configuration: Configuration, root: Actor, peppers: Peppers, user: str, **wanted: Any
) -> tuple[str, str]:
    async with configuration.change(root) as change:
        row, text = await create_key(change, peppers, NewKey(user, **wanted))
    return row["id"], text


async def until(condition: Callable[[], Any], seconds: float) -> float:
    """How long it took until the condition held; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_a_key_is_found_on_first_use_and_known_from_then_on(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    user = await a_user(configuration, root)
    key_id, text = await a_key(configuration, root, peppers, user, planes=frozenset({"data"}))
    assert worker.keys.known(text) is None
    caller = await worker.ask(text)
    assert (caller.principal.id, caller.key_id, caller.planes) == (user, key_id, {"data"})
    assert worker.keys.known(text) is caller


async def test_what_is_wrong_with_a_key_is_never_told(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    user = await a_user(configuration, root)
    _, good = await a_key(configuration, root, peppers, user)
    revoked_id, revoked = await a_key(configuration, root, peppers, user)
    _, expired = await a_key(configuration, root, peppers, user)
    inactive = await a_user(configuration, root)
    _, of_inactive = await a_key(configuration, root, peppers, inactive)
    async with configuration.change(root) as change:
        await revoke_key(change, await change.current(api_keys, revoked_id, "api_key"))
        row = (await change.rows(api_keys, api_keys.c.id_part == expired.split("_")[2]))[0]
        await change.revise(api_keys, "api_key", row, expires_at=change.at - timedelta(seconds=1))
        await change.revise(
            principals, "user", await change.current(principals, inactive, "user"), active=False
        )
    # A busy machine hears of a change within its second, not at once.
    await worker.catalog.refresh()
    # The right id with another secret, well formed.
    other = mint(peppers).text
    body = "_".join([*good.split("_")[:3], other.split("_")[3]])
    from gateway.security.keys import checksum

    wrong_secret = f"{body}_{checksum(body)}"
    wordings = set()
    for credential in (good[:-1], other, wrong_secret, revoked, expired, of_inactive, "eyJhbGciOi", ""):
        with pytest.raises(Unauthenticated) as refusal:
            await worker.ask(credential)
        wordings.add((refusal.value.message, refusal.value.code))
    assert len(wordings) == 1
    assert (await worker.ask(good)).principal.id == user


async def test_a_revocation_is_seen_by_every_worker_within_a_second(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    seen = [await workers() for _ in range(3)]
    user = await a_user(configuration, root)
    key_id, text = await a_key(configuration, root, peppers, user)
    for worker in seen:
        await worker.ask(text)
    async with configuration.change(root) as change:
        await revoke_key(change, await change.current(api_keys, key_id, "api_key"))
    for worker in seen:
        await until(lambda w=worker: w.keys.known(text) is None, 1.0)
        with pytest.raises(Unauthenticated):
            await worker.ask(text)


async def test_a_rotated_key_works_for_its_overlap_and_ends_on_every_worker_where_there_is_none(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    seen = [await workers() for _ in range(2)]
    key_id, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    for worker in seen:
        await worker.ask(text)
    async with configuration.change(root) as change:
        before = await change.current(api_keys, key_id, "api_key")
        second, _, later = await rotate_key(change, peppers, before, timedelta(hours=1))
    for worker in seen:
        assert (await worker.ask(later)).counts_as == key_id
        await worker.catalog.refresh()  # It hears of the change within its second, not at once.
        old = await worker.ask(text)
        assert old.key_id == key_id, "both work for the overlap"
        assert old.expires_at is not None
        assert abs(old.expires_at - time.time() - 3600) < 60
    async with configuration.change(root) as change:
        _, _, last = await rotate_key(change, peppers, second, timedelta(0))
    for worker in seen:
        await until(lambda w=worker: w.keys.known(later) is None, 1.0)
        with pytest.raises(Unauthenticated):
            await worker.ask(later)
        assert (await worker.ask(last)).counts_as == key_id, "the line begins where it began"


async def test_a_revocation_is_seen_without_a_notification_too(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FollowedCatalog, "_hurried", lambda *_: None)
    worker = await workers()
    key_id, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    await worker.ask(text)
    async with configuration.change(root) as change:
        await revoke_key(change, await change.current(api_keys, key_id, "api_key"))
    await until(lambda: worker.keys.known(text) is None, 1.0)


async def test_a_known_key_follows_its_principal(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    user = await a_user(configuration, root)
    _, text = await a_key(configuration, root, peppers, user)
    await worker.catalog.refresh()  # News of a key forgets it, that of its making too.
    await worker.ask(text)
    async with configuration.change(root) as change:
        inner = await create_group(change, f"group{next(numbers)}", "")
        outer = await create_group(change, f"group{next(numbers)}", "")
        await add_member(change, inner, "user", user)
        await add_member(change, outer, "group", inner["id"])
    await until(lambda: len(worker.keys.known(text).principal.groups) == 2, 1.0)
    assert worker.keys.known(text).principal.groups == tuple(sorted((inner["id"], outer["id"])))
    async with configuration.change(root) as change:
        await change.remove(groups, "group", await change.current(groups, outer["id"], "group"))
        await delete_principal(change, await change.current(principals, user, "user"))
    await until(lambda: worker.keys.known(text) is None, 1.0)
    with pytest.raises(Unauthenticated):
        await worker.ask(text)


async def test_a_key_stops_at_its_expiry_without_any_change(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    user = await a_user(configuration, root)
    async with configuration.change(root) as change:
        ends = change.at + timedelta(hours=1)
        _, text = await create_key(change, peppers, NewKey(user, expires_at=ends))
    await worker.ask(text)
    worker.keys._clock = lambda: ends.timestamp() - 1
    assert worker.keys.known(text) is not None
    worker.keys._clock = lambda: ends.timestamp()
    assert worker.keys.known(text) is None
    with pytest.raises(Unauthenticated):
        await worker.ask(text)


async def test_both_keys_work_while_a_rotation_overlaps(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    user = await a_user(configuration, root)
    old_id, old = await a_key(configuration, root, peppers, user)
    async with configuration.change(root) as change:
        ends = change.at + timedelta(minutes=5)
        _, new = await create_key(change, peppers, NewKey(user, replaces=old_id, overlap_until=ends))
    assert (await worker.ask(old)).principal.id == (await worker.ask(new)).principal.id == user
    worker.keys._clock = lambda: ends.timestamp() + 1
    with pytest.raises(Unauthenticated):
        await worker.ask(old)
    await worker.ask(new)


async def test_many_first_uses_of_one_key_make_one_look_up(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    _, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    await worker.catalog.refresh()
    looked_up = 0
    look_up = worker.keys._look_up

    async def counted(id_part: str) -> Any:
        nonlocal looked_up
        looked_up += 1
        return await look_up(id_part)

    worker.keys._look_up = counted
    callers = await asyncio.gather(*(worker.ask(text) for _ in range(200)))
    assert looked_up == 1
    assert len({id(each) for each in callers}) == 1


async def test_unknown_keys_are_looked_up_sixteen_at_once_and_not_again_for_a_while(
    peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    at_once = most = looked_up = 0

    async def slow(_: str) -> None:
        nonlocal at_once, most, looked_up
        at_once += 1
        looked_up += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    worker.keys._look_up = slow
    guesses = [mint(peppers).text for _ in range(100)]
    for _ in range(2):
        answers = await asyncio.gather(*(worker.ask(each) for each in guesses), return_exceptions=True)
        assert {type(each) for each in answers} == {Unauthenticated}
    assert (looked_up, most) == (100, 16)
    worker.keys._clock = lambda: time.time() + 6
    with pytest.raises(Unauthenticated):
        await worker.ask(guesses[0])
    assert looked_up == 101


async def test_a_caller_that_leaves_does_not_end_the_look_up_of_another(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    _, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    first = asyncio.create_task(worker.ask(text))
    second = asyncio.create_task(worker.ask(text))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second) is not None


async def test_when_keys_were_last_used_is_written_behind(
    configuration: Configuration, root: Actor, peppers: Peppers, workers: Any
) -> None:
    worker = await workers()
    key_id, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    await worker.ask(text)
    await worker.keys.uses.write()
    async with configuration.reading() as connection:
        used = (await connection.execute(api_key_uses.select().where(api_key_uses.c.key_id == key_id))).one()
    assert abs(used.last_used_at.timestamp() - time.time()) < 5


async def test_with_the_database_away_known_keys_work_and_unknown_ones_are_not_called_wrong(
    postgres_server: Any, database_url: str, owner_url: str, configuration: Configuration, root: Actor, peppers: Peppers,
    workers: Any,
) -> None:  # fmt: skip
    worker = await workers()
    user = await a_user(configuration, root)
    _, known = await a_key(configuration, root, peppers, user)
    _, unknown = await a_key(configuration, root, peppers, user)
    await worker.catalog.refresh()  # News of a key forgets it, that of its making too.
    await worker.ask(known)
    await _shut(postgres_server, database_url, True)
    try:
        assert (await worker.ask(known)).principal.id == user
        with pytest.raises(Unavailable) as refusal:
            await worker.ask(unknown)
        assert refusal.value.retry_after_seconds <= 10
        assert worker.catalog.snapshot.principals[user].id == user
        worker.catalog._monotonic = lambda: time.monotonic() + 901
        with pytest.raises(Unavailable):
            _ = worker.catalog.snapshot
        worker.catalog._monotonic = time.monotonic
    finally:
        await _shut(postgres_server, database_url, False)
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await worker.ask(unknown)).principal.id == user
                break
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_worker_that_starts_while_the_database_is_away_serves_when_it_is_back(
    postgres_server: Any,
    database_url: str,
    configuration: Configuration,
    root: Actor,
    peppers: Peppers,
) -> None:
    _, text = await a_key(configuration, root, peppers, await a_user(configuration, root))
    catalog = FollowedCatalog(database_url)
    connections = database.Connections(database_url)
    worker = Worker(StoredKeys(connections, peppers, catalog), catalog)
    await _shut(postgres_server, database_url, True)
    try:
        await catalog.start(first_seconds=0.2)
        with pytest.raises(Unavailable):
            await worker.ask(text)
    finally:
        await _shut(postgres_server, database_url, False)
    await until(lambda: catalog.latest is not None, 3.0)
    assert (await worker.ask(text)).key_id
    await worker.keys.stop()
    await catalog.stop()
    await connections.close()


async def test_a_frozen_database_is_given_up_in_seconds(
    peppers: Peppers, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await workers()
    monkeypatch.setattr("gateway.store.keys._LOOKUP_SECONDS", 0.2)
    frozen = asyncio.Event()
    monkeypatch.setattr(worker.keys, "_look_up", lambda _: frozen.wait())
    guesses = [mint(peppers).text for _ in range(40)]
    began = time.monotonic()
    answers = await asyncio.gather(*(worker.ask(each) for each in guesses), return_exceptions=True)
    assert {type(each) for each in answers} == {Unavailable}
    assert time.monotonic() - began < 2


async def _shut(server: Any, url: str, shut: bool) -> None:
    """Let nobody into the database and end its sessions, or let everyone in again."""
    name = url.partition("@/")[2].partition("?")[0]
    connection = await asyncpg.connect(server.url("postgres", "postgres"))
    try:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {"false" if shut else "true"}')
        if shut:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
    finally:
        await connection.close()
