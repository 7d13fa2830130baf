"""Webhooks: who is told of events, and how it knows that they come from here.

The secret is shown once, when it is made, and never read back.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType, field
from sqlalchemy import select

from gateway.errors import BadRequest
from gateway.events.sender import seal_subject
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Name,
    Page,
    Size,
    set_fields,
    versioned,
)
from gateway.security.addresses import AddressRefused, read_address
from gateway.store.reading import Row, current
from gateway.store.tables.events import webhook_deliveries, webhooks
from policies.administration import Permission

EventName = Literal["budget.threshold", "audit.head", "usage.settled"]
Url = Annotated[
    str,
    Meta(
        max_length=2000,
        description="https; plain http and private hosts only where WEIGHBRIDGE_WEBHOOK_HOSTS lists the host.",
        examples=["https://hooks.example.com/weighbridge"],
    ),
]
Secret = Annotated[
    str,
    Meta(
        min_length=32,
        max_length=256,
        pattern=r"^[!-~]+$",
        description="Signs what is sent; left out: made here.",
    ),
]
READ = {"permission": Permission.WEBHOOKS_READ}
WRITE = {"permission": Permission.WEBHOOKS_WRITE}


class WebhookView(Struct, frozen=True, kw_only=True):
    """A webhook, without its secret."""

    id: str
    name: str
    url: str
    events: list[str]
    enabled: bool
    managed_by: str | None
    updated_at: datetime


class MadeWebhook(Struct, frozen=True, kw_only=True):
    """A webhook with its secret, which is shown this once."""

    SHOWN_ONCE: ClassVar[tuple[str, ...]] = ("secret",)

    secret: str | None
    """Null where an answer is repeated for an Idempotency-Key: set another secret then."""
    details: WebhookView


class NewWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook to create."""

    name: Name
    url: Url
    events: Annotated[list[EventName], Meta(min_length=1, max_length=10)] = field(
        default_factory=lambda: ["budget.threshold"]
    )
    secret: Secret | None = None
    enabled: bool = True


class WebhookChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a webhook; another address needs a secret of its own."""

    name: Name | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    events: Annotated[list[EventName], Meta(min_length=1, max_length=10)] | UnsetType = UNSET
    secret: Secret | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class DeliveryView(Struct, frozen=True, kw_only=True):
    """An event on its way to a webhook."""

    id: str
    event_id: str
    created_at: datetime
    attempts: int
    next_at: datetime | None
    """When it is tried next; null: delivered or given up."""
    delivered_at: datetime | None
    problem: str | None


class Webhooks(Controller):
    """Webhooks."""

    path = "/webhooks"
    tags = ("Webhooks",)

    @get("/", opt=READ, summary="List webhooks, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[WebhookView]:
        """No secret is ever listed."""
        return await admin.listed(_view, webhooks, after=after, size=size)

    @post("/", opt=WRITE, summary="Create a webhook")
    async def create(
        self, admin: NamedDependency[Admin], data: JSONBody[NewWebhook]
    ) -> Response[MadeWebhook]:
        """The secret is answered once."""
        _check(admin, data.url)
        secret = data.secret or secrets.token_urlsafe(32)
        async with admin.change() as change:
            made = change.new_id()
            values = {name: value for name, value in set_fields(data).items() if name != "secret"}
            values |= {"id": made, "secret_sealed": admin.sealing.seal(secret.encode(), seal_subject(made))}
            row = await change.add(webhooks, "webhook", values)
        answer = versioned(row, MadeWebhook(secret=secret, details=_view(row)), status_code=201)
        answer.headers["cache-control"] = "no-store"
        return answer

    @get("/{webhook_id:uuid}", opt=READ, summary="Read a webhook")
    async def read(self, admin: NamedDependency[Admin], webhook_id: FromPath[UUID]) -> Response[WebhookView]:
        """Answers its version as `ETag`."""
        row = await admin.read(webhooks, webhook_id, "webhook")
        return versioned(row, _view(row))

    @patch("/{webhook_id:uuid}", opt=WRITE, summary="Change a webhook")
    async def update(
        self,
        admin: NamedDependency[Admin],
        webhook_id: FromPath[UUID],
        data: JSONBody[WebhookChange],
        if_match: IfMatch = None,
    ) -> Response[WebhookView]:
        """What is on its way is signed with the secret of the moment at which it is sent."""
        values = set_fields(data)
        secret = values.pop("secret", None)
        if "url" in values:
            _check(admin, values["url"])
        async with admin.revising(webhooks, webhook_id, "webhook", if_match) as (change, before):
            if values.get("url", before["url"]) != before["url"] and secret is None:
                raise BadRequest(
                    "Give a secret with the new address: the old one stays with the old.", param="secret"
                )
            if secret is not None:
                values["secret_sealed"] = admin.sealing.seal(secret.encode(), seal_subject(before["id"]))
            row = await change.revise(webhooks, "webhook", before, **values)
        return versioned(row, _view(row))

    @delete("/{webhook_id:uuid}", opt=WRITE, summary="Delete a webhook")
    async def remove(
        self, admin: NamedDependency[Admin], webhook_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """What it is still owed is given up."""
        async with admin.revising(webhooks, webhook_id, "webhook", if_match) as (change, before):
            await change.remove(webhooks, "webhook", before)

    @get("/{webhook_id:uuid}/deliveries", opt=READ, summary="List a webhook's deliveries, in order of id")
    async def deliveries(
        self,
        admin: NamedDependency[Admin],
        webhook_id: FromPath[UUID],
        after: After = None,
        size: Size = 50,
    ) -> Page[DeliveryView]:
        """Of the last 30 days."""
        c = webhook_deliveries.c
        query = (
            select(webhook_deliveries).where(c.webhook_id == str(webhook_id)).order_by(c.id).limit(size + 1)
        )
        if after is not None:
            query = query.where(c.id > str(after))
        async with admin.reading() as connection:
            await current(connection, webhooks, str(webhook_id), "webhook")
            found = (await connection.execute(query)).mappings().all()
        views = [
            DeliveryView(
                id=row["id"],
                event_id=row["event_id"],
                created_at=row["created_at"],
                attempts=row["attempts"],
                next_at=row["next_at"],
                delivered_at=row["delivered_at"],
                problem=row["problem"],
            )
            for row in found[:size]
        ]
        return Page(views, views[-1].id if len(found) > size else None)


def _check(admin: Admin, url: str) -> None:
    try:
        read_address(url, admin.webhook_hosts)
    except AddressRefused as error:
        raise BadRequest(f"No event can be sent there: {error}.", param="url") from error


def _view(row: Row) -> WebhookView:
    return WebhookView(
        id=row["id"],
        name=row["name"],
        url=row["url"],
        events=list(row["events"]),
        enabled=row["enabled"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
