"""Provisioned throughput through a whole deployment: a group that floods, and one for which some is kept."""

from __future__ import annotations

import asyncio
import json
from itertools import count

import pytest

from gateway.seed import ENDPOINT
from tests.faults.transcript import Transcript
from tests.faults.upstream import Upstream
from tests.faults.wire import Client, Spec
from tests.system.deployment import Deployment, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOTS = 4
_calls = count(1)


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"reserved": Person(), "flood": Person()}


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


def spec(key: str, script: str, **more: object) -> Spec:
    body = {
        "model": ENDPOINT,
        "messages": [{"role": "user", "content": f"[[{script}]]"}],
        "stream": True,
        **more,
    }
    return Spec(next(_calls), json.dumps(body).encode(), True, key)


async def test_a_group_with_a_provision_is_answered_at_once_while_another_has_and_waits_for_every_slot(
    gateway: Deployment, upstream: Upstream
) -> None:
    group = await gateway.administer("POST", "/groups", {"name": "reserved"})
    member = {"member_kind": "user", "member_id": gateway.ids["reserved"]}
    await gateway.administer("POST", f"/groups/{group['id']}/members", member)
    # Nothing of the flood ends by itself while the test runs, and nobody gives up waiting.
    pool = {"name": "local", "tokens_per_second": 1_000, "slots": SLOTS, "queue_ms": 600_000}
    await gateway.administer("POST", "/throughput-pools", pool)
    kept = {
        "name": "kept",
        "scope": "group",
        "subject_id": group["id"],
        "units": 900,
        "first_token_ms": 60_000,
    }
    provision = await gateway.administer("POST", "/throughput-provisions", kept)

    client, flooding = Client(gateway.target, timeout=200.0), list[asyncio.Task[Transcript]]()
    for _ in range(2 * SLOTS + 2):
        flood = spec(gateway.keys["flood"], "tokens=4000 delay=100ms")
        flooding.append(asyncio.create_task(client.call(flood)))
    await upstream.until(lambda records: len(records) >= SLOTS, timeout=60.0)

    for _ in range(3):
        answered = await client.call(spec(gateway.keys["reserved"], "tokens=4", max_tokens=8))
        assert (answered.status, answered.how) == (200, "complete")
        # Had it had to wait for a slot it would wait still.
        lent = [each for each in upstream.records if each.priority == 1]
        assert len(lent) == SLOTS, "what was lent is all of it, and no more"
    assert sum(each.priority == 0 for each in upstream.records) == 3

    # Who leaves makes room, at once, for who waits; the ones that waited longest come first.
    for each in flooding:
        each.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    await upstream.until(lambda _: upstream.running == 0, timeout=60.0)
    after = await client.call(spec(gateway.keys["flood"], "tokens=4", max_tokens=8))
    assert after.how == "complete", "every slot came back"
    client.close()

    await gateway.drained()
    rows = await gateway.query(
        "SELECT r.principal_name, a.lane, a.provision_id, count(*) AS calls FROM gateway.attempts a"
        " JOIN gateway.requests r USING (request_id) WHERE a.outcome <> 'excluded' GROUP BY 1, 2, 3 ORDER BY 1"
    )
    seen = {(each["principal_name"], each["lane"], each["provision_id"]): each["calls"] for each in rows}
    assert seen["reserved", "covered", provision["id"]] == 3
    assert {key[1:] for key in seen if key[0] == "flood"} == {("lent", None)}

    told = (await gateway.ask("GET", "/metrics")).body.decode()
    assert 'weighbridge_provision_requests_total{lane="covered",provision="kept"} 3.0' in told
    assert 'weighbridge_provision_first_token_seconds_count{provision="kept"} 3.0' in told
