"""API keys as they are shown and asked for, alike on everybody's own route and on the administrators'.

A key's text is in the answer that makes it and nowhere else, ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal, TypeVar
from uuid import UUID

from litestar import Response
from msgspec import Meta, Struct, field

from gateway.errors import Forbidden
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import Moment, etag
from gateway.store.reading import Row
from policies.administration import may_mint
from policies.decision import Deny

T = TypeVar("T", bound="CreatedKey")
Plane = Literal["data", "control"]
Priority = Literal["interactive", "batch"]
LONGEST_OVERLAP_SECONDS = 30 * 86_400
KeyName = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$", examples=["notebook"])]
Planes = Annotated[list[Plane], Meta(min_length=1, max_length=2)]
Endpoints = Annotated[list[UUID], Meta(max_length=1000)]
Overlap = Annotated[
    int,
    Meta(
        ge=0,
        le=LONGEST_OVERLAP_SECONDS,
        description="Seconds for which the old key still works; 0: it ends at once.",
        examples=[86_400],
    ),
]


class KeyView(Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    id: str
    principal_id: str
    name: str
    prefix: str
    """How the key's text begins, to recognise it by."""
    planes: list[str]
    endpoints: list[str] | None
    """Ids of the endpoints that it is confined to; null: no confinement."""
    priority: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    replaces: str | None
    counts_as: str
    """The key whose limits and budgets it shares: the first of its line, or itself."""


class CreatedKey(Struct, frozen=True, kw_only=True):
    """A new key and, this once, its text."""

    SHOWN_ONCE: ClassVar[tuple[str, ...]] = ("key",)

    key: Annotated[
        str | None,
        Meta(
            description="The key itself: keep it now, it cannot be shown again. Null where an answer is repeated for an"
            " Idempotency-Key: no key is stored; rotate it, or revoke it and make another."
        ),
    ]
    details: KeyView

    def __repr__(self) -> str:
        return f"CreatedKey(details={self.details!r})"


class RotatedKey(CreatedKey, frozen=True, kw_only=True):
    """A new key and, this once, its text; and the key that it takes over from."""

    replaced: KeyView

    def __repr__(self) -> str:
        return f"RotatedKey(details={self.details!r})"


class OwnKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make for oneself."""

    name: KeyName = ""
    expires_at: Moment | None = None
    planes: Planes = field(default_factory=lambda: ["data"])
    endpoints: Endpoints | None = None
    """Confines the key to these endpoints."""
    priority: Priority = "interactive"
    """`batch`: its calls give way to interactive ones where a limit is shared."""


class KeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make."""

    principal_id: UUID
    name: KeyName = ""
    expires_at: Moment | None = None
    planes: Planes = field(default_factory=lambda: ["data", "control"])
    endpoints: Endpoints | None = None
    """Confines the key to these endpoints."""
    priority: Priority = "interactive"
    """`batch`: its calls give way to interactive ones where a limit is shared."""
    replaces: UUID | None = None
    """Key that this one takes over from."""
    overlap_until: Moment | None = None
    """Until when the replaced key still works; at once where left out."""


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to rotate a key."""

    overlap_seconds: Overlap = 86_400

    @property
    def overlap(self) -> timedelta:
        """For how long both keys work."""
        return timedelta(seconds=self.overlap_seconds)


def require_mintable(
    admin: Admin, planes: frozenset[str], endpoints: frozenset[str] | None, *, batch: bool
) -> None:
    """Raise Forbidden unless a key may be made that reaches so far."""
    match may_mint(admin.caller, planes, endpoints, batch=batch):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            pass


def require_rotatable(admin: Admin, key: Row) -> None:
    """Raise Forbidden unless the caller may make a key that reaches as far as this one."""
    endpoints = None if key["endpoints"] is None else frozenset(key["endpoints"])
    require_mintable(admin, frozenset(key["planes"]), endpoints, batch=key["priority"] == "batch")


def shown_once(row: Row, shown: T) -> Response[T]:
    """An answer with a key in it, which nobody between may keep."""
    return Response(shown, status_code=201, headers={"etag": etag(row), "cache-control": "no-store"})


def shown(row: Row, used: Mapping[str, datetime]) -> KeyView:
    """A key's row as it is shown; `used` says when keys were last used."""
    return KeyView(
        id=row["id"],
        principal_id=row["principal_id"],
        name=row["name"],
        prefix=f"gk_live_{row['id_part']}",
        planes=row["planes"],
        endpoints=row["endpoints"],
        priority=row["priority"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=used.get(row["id"]),
        replaces=row["replaces"],
        counts_as=row["counts_as"] or row["id"],
    )
