"""The callers and endpoints of the bench, written as the configuration's own rows, so that views find every name."""

from __future__ import annotations

import uuid

import asyncpg

from bench.ledger.traffic import Offer, Population, Someone

PEOPLE, GROUPS, OFFERS, KEYS = 2_000, 40, 12, 3
_SPACE = uuid.UUID("0199a000-0000-7000-8000-000000000000")


def population() -> Population:
    """The same people and endpoints each time."""
    groups = [_id(f"group-{number}") for number in range(GROUPS)]
    people = [
        Someone(
            id=_id(f"person-{number}"),
            name=f"person-{number}",
            kind="service_principal" if number % 10 == 9 else "user",
            keys=tuple(_id(f"key-{number}-{key}") for key in range(KEYS)),
            # A tenth is charged to no group.
            group=None if number % 10 == 0 else groups[number % GROUPS],
        )
        for number in range(PEOPLE)
    ]
    offers = [
        Offer(
            id=_id(f"endpoint-{number}"),
            name=f"endpoint-{number}",
            entities=tuple(
                (_id(f"entity-{number}-{place}"), f"model-{number}-{place}", _id(f"price-{number}-{place}"))
                for place in range(2)
            ),
            prices=(500 * (number + 1), 1_500 * (number + 1)),
        )
        for number in range(OFFERS)
    ]
    return Population(people, offers)


async def write(connection: asyncpg.Connection, made: Population) -> None:
    """Put their names into the configuration, in one numbered change; what is there already stays."""
    if await connection.fetchval("SELECT EXISTS (SELECT FROM gateway.configuration_change)"):
        return
    version = "1, now()"
    people = [(each.id, each.kind, each.name) for each in made.people]
    groups = {each.group for each in made.people if each.group is not None}
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO gateway.configuration_change (number, changed_at, touched) VALUES (1, now(), '{}')"
        )
        await connection.executemany(
            f"INSERT INTO gateway.principals (from_change, valid_from, id, kind, name) VALUES ({version}, $1, $2, $3)",
            people,
        )
        await connection.executemany(
            f"INSERT INTO gateway.groups (from_change, valid_from, id, name) VALUES ({version}, $1, $2)",
            [(each, f"group-{number}") for number, each in enumerate(sorted(groups))],
        )
        await connection.executemany(
            f"INSERT INTO gateway.endpoints (from_change, valid_from, id, name, task, created_at)"
            f" VALUES ({version}, $1, $2, 'llm/v1/chat', now())",
            [(each.id, each.name) for each in made.offers],
        )
        await connection.executemany(
            f"INSERT INTO gateway.served_entities (from_change, valid_from, id, endpoint_id, name, kind, provider, model)"
            f" VALUES ({version}, $1, $2, $3, 'local', 'vllm', $3)",
            [(entity, each.id, name) for each in made.offers for entity, name, _ in each.entities],
        )


def _id(name: str) -> str:
    return str(uuid.uuid5(_SPACE, name))
