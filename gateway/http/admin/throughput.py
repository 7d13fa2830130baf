"""Provisioned throughput: what the local engine can do, and what of it is kept for whom.

Whose a provision is stays as it was made; its units, its target and its name may change.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.http.admin.access import Admin
from gateway.http.admin.versions import After, IfMatch, Name, Page, Size, set_fields, versioned
from gateway.store.reading import Row
from gateway.store.rule_values import pool_of
from gateway.store.tables.throughput import throughput_pools, throughput_provisions
from gateway.store.throughput import (
    create_pool,
    create_provision,
    delete_pool,
    delete_provision,
    update_pool,
    update_provision,
)
from policies.administration import Permission

Rate = Annotated[
    int, Meta(ge=1, le=1_000_000_000, description="Tokens a second, of prompts and answers together.")
]
Several = Annotated[int, Meta(ge=1, le=10_000)]
Queue = Annotated[
    int, Meta(ge=0, le=1_000_000, description="Calls that may wait for a slot, over all workers.")
]
Wait = Annotated[int, Meta(ge=0, le=600_000, description="How long one may wait, in milliseconds.")]
Units = Annotated[int, Meta(ge=1, le=1_000_000_000, description="How much is kept, in the pool's units.")]
Target = Annotated[
    int,
    Meta(
        ge=1,
        le=600_000,
        description="Milliseconds from a call's arrival within which 95 % of the first tokens should come.",
    ),
]
READ = {"permission": Permission.THROUGHPUT_READ}
WRITE = {"permission": Permission.THROUGHPUT_WRITE}


class PoolView(Struct, frozen=True, kw_only=True):
    """What the local engine can do."""

    id: str
    name: str
    replicas: int
    tokens_per_second: int
    slots: int
    unit_tokens_per_second: int
    queue: int
    queue_ms: int
    capacity_tokens_per_second: int
    """Of all replicas: what provisions may add up to."""
    managed_by: str | None
    updated_at: datetime


class NewPool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the local engine can do; there is one."""

    name: Name
    replicas: Several = 1
    """Replicas that may be booked."""
    tokens_per_second: Rate
    """Of one replica with all of its slots in use."""
    slots: Several
    """Calls that one replica answers at once at that rate."""
    unit_tokens_per_second: Rate = 1
    """What provisions are counted in."""
    queue: Queue = 256
    queue_ms: Wait = 10_000


class PoolChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of the pool; what is left out stays."""

    name: Name | UnsetType = UNSET
    replicas: Several | UnsetType = UNSET
    tokens_per_second: Rate | UnsetType = UNSET
    slots: Several | UnsetType = UNSET
    unit_tokens_per_second: Rate | UnsetType = UNSET
    queue: Queue | UnsetType = UNSET
    queue_ms: Wait | UnsetType = UNSET


class ProvisionView(Struct, frozen=True, kw_only=True):
    """Throughput that is kept for an endpoint or a group."""

    id: str
    name: str
    scope: str
    subject_id: str
    units: int
    first_token_ms: int | None
    managed_by: str | None
    updated_at: datetime


class NewProvision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Throughput to keep."""

    name: Name
    scope: Literal["endpoint", "group"]
    subject_id: UUID
    """The endpoint or the group whose calls are covered."""
    units: Units
    first_token_ms: Target | None = None
    """Where it is missed, less is lent to others while the provision is in use, down to what is not provisioned."""


class ProvisionChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a provision; what is left out stays."""

    name: Name | UnsetType = UNSET
    units: Units | UnsetType = UNSET
    first_token_ms: Target | UnsetType | None = UNSET


class ThroughputPools(Controller):
    """What the local engine can do."""

    path = "/throughput-pools"
    tags = ("Provisioned throughput",)

    @get("/", opt=READ, summary="List throughput pools")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[PoolView]:
        """One, or none where throughput is not provisioned."""
        return await admin.listed(_pool, throughput_pools, after=after, size=size)

    @post("/", opt=WRITE, summary="Say what the local engine can do")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewPool]) -> Response[PoolView]:
        """Changes nothing for calls until something is provisioned. `python -m bench throughput` measures both numbers."""
        async with admin.change() as change:
            row = await create_pool(change, set_fields(data))
        return versioned(row, _pool(row), status_code=201)

    @get("/{pool_id:uuid}", opt=READ, summary="Read a throughput pool")
    async def read(self, admin: NamedDependency[Admin], pool_id: FromPath[UUID]) -> Response[PoolView]:
        """Answers its version as `ETag`."""
        row = await admin.read(throughput_pools, pool_id, "throughput_pool")
        return versioned(row, _pool(row))

    @patch("/{pool_id:uuid}", opt=WRITE, summary="Change a throughput pool")
    async def update(
        self,
        admin: NamedDependency[Admin],
        pool_id: FromPath[UUID],
        data: JSONBody[PoolChange],
        if_match: IfMatch = None,
    ) -> Response[PoolView]:
        """Refused with 409 and the arithmetic where provisions would no longer fit."""
        async with admin.revising(throughput_pools, pool_id, "throughput_pool", if_match) as (change, before):
            row = await update_pool(change, before, set_fields(data))
        return versioned(row, _pool(row))

    @delete("/{pool_id:uuid}", opt=WRITE, summary="Delete a throughput pool")
    async def remove(
        self, admin: NamedDependency[Admin], pool_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Refused with 409 while something of it is provisioned."""
        async with admin.revising(throughput_pools, pool_id, "throughput_pool", if_match) as (change, before):
            await delete_pool(change, before)


class ThroughputProvisions(Controller):
    """What is kept for whom."""

    path = "/throughput-provisions"
    tags = ("Provisioned throughput",)

    @get("/", opt=READ, summary="List throughput provisions, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[ProvisionView]:
        """How each fared is in the view `serving.provisioned_throughput`."""
        return await admin.listed(_provision, throughput_provisions, after=after, size=size)

    @post("/", opt=WRITE, summary="Provision throughput")
    async def create(
        self, admin: NamedDependency[Admin], data: JSONBody[NewProvision]
    ) -> Response[ProvisionView]:
        """In force on every worker within a second; refused with 409 and the arithmetic where not so much is left."""
        async with admin.change() as change:
            row = await create_provision(change, {**set_fields(data), "subject_id": str(data.subject_id)})
        return versioned(row, _provision(row), status_code=201)

    @get("/{provision_id:uuid}", opt=READ, summary="Read a throughput provision")
    async def read(
        self, admin: NamedDependency[Admin], provision_id: FromPath[UUID]
    ) -> Response[ProvisionView]:
        """Answers its version as `ETag`."""
        row = await admin.read(throughput_provisions, provision_id, "throughput_provision")
        return versioned(row, _provision(row))

    @patch("/{provision_id:uuid}", opt=WRITE, summary="Change a throughput provision")
    async def update(
        self,
        admin: NamedDependency[Admin],
        provision_id: FromPath[UUID],
        data: JSONBody[ProvisionChange],
        if_match: IfMatch = None,
    ) -> Response[ProvisionView]:
        """What it has left of its rate stays as it is."""
        async with admin.revising(throughput_provisions, provision_id, "throughput_provision", if_match) as (
            change,
            before,
        ):
            row = await update_provision(change, before, set_fields(data))
        return versioned(row, _provision(row))

    @delete("/{provision_id:uuid}", opt=WRITE, summary="Delete a throughput provision")
    async def remove(
        self, admin: NamedDependency[Admin], provision_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """What was kept is everybody's within a second."""
        async with admin.revising(throughput_provisions, provision_id, "throughput_provision", if_match) as (
            change,
            before,
        ):
            await delete_provision(change, before)


def _pool(row: Row) -> PoolView:
    return PoolView(
        id=row["id"],
        name=row["name"],
        replicas=row["replicas"],
        tokens_per_second=row["tokens_per_second"],
        slots=row["slots"],
        unit_tokens_per_second=row["unit_tokens_per_second"],
        queue=row["queue"],
        queue_ms=row["queue_ms"],
        capacity_tokens_per_second=pool_of(row).capacity,
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )


def _provision(row: Row) -> ProvisionView:
    return ProvisionView(
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        subject_id=row["subject_id"],
        units=row["units"],
        first_token_ms=row["first_token_ms"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
