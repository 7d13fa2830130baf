"""Whoever is no longer welcome is cut while it is being answered, within 5 seconds, charged for what it was sent."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.faults.journal import COMPLETE, PEER_CLOSED
from tests.faults.upstream import Upstream
from tests.identity.signing import AUDIENCE, ISSUER, Signer, claims
from tests.system.asking import Answer, request_bytes
from tests.system.deployment import ENDPOINT, Deployment, Person, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
CUT_SECONDS = 5.0


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {name: Person() for name in ("revoked", "disabled", "signed-in", "plain", "deaf", "rotated")}


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


class Running:
    """A long call under way at the oracle."""

    def __init__(
        self, gateway: Deployment, upstream: Upstream, number: int, task: asyncio.Task[Answer]
    ) -> None:
        self.gateway, self.upstream, self.number, self.task = gateway, upstream, number, task

    @classmethod
    async def begin(
        cls, gateway: Deployment, upstream: Upstream, key: str, *, stream: bool = True
    ) -> Running:
        number = len(upstream.records)
        script = "[[tokens=3000 delay=20ms]]" if stream else "[[tokens=10 first=30s]]"
        body = chat(script, stream=stream, max_tokens=3000 if stream else 20)
        task = asyncio.create_task(gateway.ask("POST", CHAT, body, key=key, timeout=100.0))
        await upstream.until(
            lambda records: len(records) > number and (not stream or records[number].emitted > 5)
        )
        return cls(gateway, upstream, number, task)

    async def cut(self) -> tuple[Answer, dict[str, Any]]:
        """The answer and the row, once it was cut; the model was stopped for it."""
        async with asyncio.timeout(CUT_SECONDS):
            answer = await self.task
            await self.upstream.until(lambda records: records[self.number].ended == PEER_CLOSED)
        request_id = self.upstream.records[self.number].request_id
        assert request_id is not None
        return answer, await self.gateway.row_of(request_id)


def told(answer: Answer) -> str:
    """The code of a stream's last event."""
    last = answer.events()[-1]
    assert last != "[DONE]"
    return last["error"]["code"]


async def revoke(gateway: Deployment, who: str) -> None:
    listed = await gateway.administer("GET", f"/keys?principal_id={gateway.ids[who]}")
    for each in listed["items"]:
        await gateway.administer("DELETE", f"/keys/{each['id']}")


async def test_a_stream_ends_when_its_key_is_revoked_and_others_go_on(
    gateway: Deployment, upstream: Upstream
) -> None:
    other = await Running.begin(gateway, upstream, gateway.keys["bulk"])
    running = await Running.begin(gateway, upstream, gateway.keys["revoked"])
    await revoke(gateway, "revoked")
    answer, row = await running.cut()
    assert (answer.status, told(answer)) == (200, "invalid_api_key")
    assert (row["status"], row["stopped_by"], row["error_code"]) == ("cut", "revoked", "revoked")
    record = upstream.records[running.number]
    assert 5 < row["completion_tokens"] <= record.emitted
    assert not other.task.done()
    other.task.cancel()


async def test_a_stream_ends_when_its_principal_is_disabled(gateway: Deployment, upstream: Upstream) -> None:
    running = await Running.begin(gateway, upstream, gateway.keys["disabled"])
    await gateway.administer("PATCH", f"/users/{gateway.ids['disabled']}", {"active": False})
    answer, row = await running.cut()
    assert (told(answer), row["stopped_by"]) == ("invalid_api_key", "revoked")


async def test_a_stream_ends_when_its_key_is_replaced_without_an_overlap(
    gateway: Deployment, upstream: Upstream
) -> None:
    who = gateway.ids["rotated"]
    running = await Running.begin(gateway, upstream, gateway.keys["rotated"])
    key = (await gateway.administer("GET", f"/keys?principal_id={who}"))["items"][0]
    await gateway.administer("POST", "/keys", {"principal_id": who, "replaces": key["id"]})
    _, row = await running.cut()
    assert row["stopped_by"] == "revoked"


async def test_a_stream_of_a_token_ends_with_its_tokens(gateway: Deployment, upstream: Upstream) -> None:
    signer = Signer()
    issuer = {
        "name": "login", "issuer": ISSUER, "audience": AUDIENCE, "public_keys": signer.jwks,
        "create_principals": True, "groups_claim": "groups",
    }  # fmt: skip
    group = await gateway.administer("POST", "/groups", {"name": "callers"})
    given = {"grantee_kind": "group", "grantee_id": group["id"], "level": "CAN_QUERY"}
    path = f"/admin/v1/endpoints/{gateway.ids[ENDPOINT]}/grants"
    granted = await gateway.ask("PUT", path, given, key=gateway.admin_key)
    assert granted.status < 300, granted.body
    await gateway.administer("POST", "/issuers", issuer)
    for change in ("tokens_not_before", "active"):
        token = signer.sign(claims(groups=["callers"], iat=int(time.time())))
        running = await Running.begin(gateway, upstream, token)
        who = (await gateway.ask("GET", "/admin/v1/me", key=token)).json()["id"]
        values = {"active": False} if change == "active" else {change: "2026-01-01T00:00:00Z"}
        if change == "tokens_not_before":
            await gateway.administer("PATCH", f"/users/{who}", values)
            assert not running.task.done(), "issued later than that"
            values = {change: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))}
        await gateway.administer("PATCH", f"/users/{who}", values)
        answer, row = await running.cut()
        assert (told(answer), row["stopped_by"]) == ("invalid_api_key", "revoked")
        assert (await gateway.ask("POST", CHAT, chat("x"), key=token)).status == 401
        await gateway.administer("PATCH", f"/users/{who}", {"tokens_not_before": None})


async def test_a_stream_of_a_console_token_ends_with_signing_out(
    gateway: Deployment, upstream: Upstream
) -> None:
    key = gateway.keys["signed-in"]
    token = (await gateway.ask("POST", "/admin/v1/sessions", key=key)).json()["token"]
    running = await Running.begin(gateway, upstream, token)
    by_key = await Running.begin(gateway, upstream, key)
    assert (await gateway.ask("DELETE", "/admin/v1/sessions", key=token)).status == 204
    _, row = await running.cut()
    assert row["stopped_by"] == "revoked"
    assert not by_key.task.done(), "the key itself stays"
    by_key.task.cancel()


async def test_a_plain_call_that_is_cut_is_told_so(gateway: Deployment, upstream: Upstream) -> None:
    running = await Running.begin(gateway, upstream, gateway.keys["plain"], stream=False)
    await revoke(gateway, "plain")
    answer, row = await running.cut()
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert (row["status"], row["stopped_by"]) == ("cut", "revoked")


async def test_a_client_that_does_not_read_is_cut_too(gateway: Deployment, upstream: Upstream) -> None:
    number = len(upstream.records)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    # Larger than what sockets and buffers hold.
    body = chat("[[tokens=200000]]", stream=True, max_tokens=200000)
    writer.write(request_bytes("POST", CHAT, body, key=gateway.keys["deaf"]))
    await upstream.until(lambda records: len(records) > number and records[number].emitted > 500, 20.0)
    assert upstream.records[number].ended != COMPLETE
    await revoke(gateway, "deaf")
    async with asyncio.timeout(CUT_SECONDS):
        await upstream.until(lambda records: records[number].ended == PEER_CLOSED)
    request_id = upstream.records[number].request_id
    assert request_id is not None
    assert (await gateway.row_of(request_id))["stopped_by"] == "revoked"
    writer.close()
