"""Real calls while permissions, groups and limits change in between; then every explanation agrees with what happened.

600 calls here, 10,000 in `make soak`. Each call is put to the explanation twice: at its time, and, where it has a row
in the ledger, by the configuration that the row names.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.system.deployment import ENDPOINT, Deployment, Person, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMES = tuple(f"caller{number}" for number in range(6))


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {name: Person(may_query=False) for name in NAMES}


@dataclass(frozen=True, slots=True)
class Made:
    """One call and its answer."""

    name: str
    at: datetime
    status: int
    request_id: str


class Policy:
    """Changes who may what, so that each change touches somebody who calls."""

    def __init__(self, gateway: Deployment, rng: random.Random) -> None:
        self.gateway = gateway
        self.rng = rng
        self.groups: list[str] = []
        self.limits: list[str] = []
        self.members: set[tuple[str, str]] = set()

    async def prepare(self) -> None:
        """Two groups with a grant and a limit each: the first may be closed, so that the other pays."""
        for number in range(2):
            group = await self._do("POST", "/groups", {"name": f"group{number}"})
            self.groups.append(group["id"])
            await self._grant("group", group["id"], "CAN_QUERY")
            limit = {"scope": "group", "subject_id": group["id"], "metric": "requests"}
            made = await self._do("POST", "/limits", {**limit, "window": "rolling:60000", "amount": 10**9})
            self.limits.append(made["id"])

    async def every_case(self) -> None:
        """One who pays for herself, one of each group, one who may only look; the last has no grant at all."""
        alone, first, second, looking = (self.gateway.ids[name] for name in NAMES[:4])
        await self._grant("user", alone, "CAN_QUERY")
        await self._move(self.groups[0], first)
        await self._move(self.groups[1], second)
        await self._grant("user", looking, "CAN_VIEW")
        await self.gateway.followed()

    async def close_one(self) -> None:
        """The second group's limit refuses its only member."""
        await self._amount(self.limits[1], 0)
        await self.gateway.followed()

    async def change(self) -> None:
        """A few changes, which every worker follows then."""
        for _ in range(3):
            who = self.gateway.ids[self.rng.choice(NAMES)]
            match self.rng.randrange(4):
                case 0:
                    await self._grant("user", who, self.rng.choice(("CAN_VIEW", "CAN_QUERY")))
                case 1 | 2:
                    await self._move(self.rng.choice(self.groups), who)
                case _:
                    await self._amount(self.rng.choice(self.limits), self.rng.choice((0, 10**9)))
        await self.gateway.followed()

    async def _move(self, group: str, who: str) -> None:
        """Into the group, or out of it."""
        inside = (group, who) in self.members
        (self.members.discard if inside else self.members.add)((group, who))
        body = {"remove": [who]} if inside else {"add": [{"member_kind": "user", "member_id": who}]}
        await self._do("POST", f"/groups/{group}/members:bulk", body)

    async def _amount(self, limit: str, amount: int) -> None:
        await self._do("PATCH", f"/limits/{limit}", {"amount": amount})

    async def _grant(self, kind: str, who: str, level: str) -> None:
        body = {"grantee_kind": kind, "grantee_id": who, "level": level}
        await self._do("PUT", f"/endpoints/{self.gateway.ids[ENDPOINT]}/grants", body)

    async def _do(self, method: str, path: str, body: object) -> Any:
        headers = [("if-match", "*")]
        answer = await self.gateway.ask(
            method, f"/admin/v1{path}", body, key=self.gateway.admin_key, headers=headers
        )
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body!r}"
        return answer.json() if answer.body else None


async def explained(gateway: Deployment, **query: str) -> Any:
    """One explanation for the administrator."""
    answer = await gateway.ask("GET", f"/admin/v1/explain?{urlencode(query)}", key=gateway.admin_key)
    assert answer.status == 200, answer.body
    return answer.json()


async def agree(gateway: Deployment, *, calls: int, rounds: int, seed: int) -> str:
    """Call and change in turn; then hold every explanation against what happened.

    Every kind of answer and of payer is there whatever the seed: two scenes are set before the changes are drawn.
    """
    rng = random.Random(seed)
    policy = Policy(gateway, rng)
    await policy.prepare()
    made: list[Made] = []
    places = asyncio.Semaphore(12)

    async def call(name: str) -> None:
        async with places:
            at = datetime.now(UTC)
            body = chat("[[tokens=1]]", max_tokens=1)
            answer = await gateway.ask("POST", "/v1/chat/completions", body, key=gateway.keys[name])
            made.append(Made(name, at, answer.status, answer.request_id))

    for scene in (policy.every_case, policy.close_one):
        await scene()
        await asyncio.gather(*(call(name) for name in NAMES))
    for _ in range(rounds):
        await policy.change()
        await asyncio.gather(*(call(rng.choice(NAMES)) for _ in range(calls // rounds)))
    await policy.change()
    await gateway.drained()
    rows = {str(row["request_id"]): row for row in await gateway.ledger_rows()}

    wrong: list[str] = []
    turns = asyncio.Semaphore(4)

    async def check(each: Made) -> None:
        row = rows.get(each.request_id)
        async with turns:
            then = await explained(gateway, principal=each.name, endpoint=ENDPOINT, at=each.at.isoformat())
            by_row = None if row is None else await explained(gateway, request_id=each.request_id)
        if then["admits"] != (each.status == 200) or (row is not None) != (each.status == 200):
            wrong.append(f"{each}: {then['decided_by']}")
        if each.status == 403 and then["permission"] not in (None, "CAN_VIEW"):
            wrong.append(f"{each}: refused for permission, explained with {then['permission']}")
        if row is not None and by_row is not None:
            if then["charged_group"] != row["group_id"] or by_row["charged_group"] != row["group_id"]:
                wrong.append(f"{each}: charged {row['group_id']}, explained {then['charged_group']}")
            if by_row["then"]["differences"] or by_row["snapshot_version"] != row["snapshot_version"]:
                wrong.append(f"{each}: {by_row['then']['differences']}")

    await asyncio.gather(*(check(each) for each in made))
    assert not wrong, f"{len(wrong)} of {len(made)}: {wrong[:5]}"
    statuses = Counter(each.status for each in made)
    assert set(statuses) == {200, 403, 429}, statuses
    charged = Counter(str(row["group_id"]) for row in rows.values())
    assert len(charged) == 3, "each group and none was charged"
    return f"{len(made)} calls agree: {dict(statuses)}, charged {sorted(charged.values())}"


async def test_explanations_agree_with_every_call(gateway: Deployment, seed: int) -> None:
    print(await agree(gateway, calls=600, rounds=12, seed=seed))


async def test_somebody_elses_request_is_as_unknown_as_one_that_never_was(gateway: Deployment) -> None:
    made = await gateway.ask("POST", "/v1/chat/completions", chat("[[tokens=1]]"), key=gateway.demo_key)
    await gateway.row_of(made.request_id)

    async def asked(request_id: str, key: str) -> tuple[int, str]:
        answer = await gateway.ask("GET", f"/admin/v1/explain?request_id={request_id}", key=key)
        told = "" if answer.status == 200 else answer.json()["error"]["message"]
        return answer.status, told.replace(request_id, "ID")

    assert (await asked(made.request_id, gateway.demo_key))[0] == 200
    foreign = await asked(made.request_id, gateway.keys["bulk"])
    assert foreign[0] == 404
    assert foreign == await asked("01900000-0000-7000-8000-000000000000", gateway.keys["bulk"])
