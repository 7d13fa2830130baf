"""Who is asking: principals, groups and roles as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PrincipalKind(StrEnum):
    """People and machines; both belong to groups and both hold grants."""

    USER = "user"
    SERVICE_PRINCIPAL = "service_principal"


class Role(StrEnum):
    """Roles of the control plane. Endpoint ownership is not a role: it is CAN_MANAGE on that endpoint."""

    ADMIN = "admin"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Group:
    """A group; `parents` are the groups it is directly nested in; `managers` may change its membership."""

    id: str
    name: str
    parents: tuple[str, ...] = ()
    managers: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    """Roles that its members hold by being in it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a service principal with everything a decision needs to know of it."""

    id: str
    kind: PrincipalKind
    name: str
    groups: tuple[str, ...] = ()
    """Ids of every group it belongs to, nested ones resolved, in ascending order."""
    roles: frozenset[Role] = frozenset()
    """Its own and those of its groups."""
    active: bool = True
    tokens_not_before: int = 0
    """Unix seconds; JWTs issued earlier are refused."""
    own_roles: frozenset[Role] = frozenset()
    """Those that it would hold without any group."""

    @property
    def is_admin(self) -> bool:
        """Whether the principal may do everything on the control plane."""
        return Role.ADMIN in self.roles


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request's identity: the principal, and the key it came with (None for another issuer's token)."""

    principal: Principal
    key_id: str | None = None
    endpoints: frozenset[str] | None = None
    """Endpoint ids that the key is confined to; None means no confinement."""
    planes: frozenset[str] = frozenset({"data", "control"})
    """Planes that the key may be used on."""
    expires_at: int | None = None
    """Unix seconds at which the credential stops being valid."""
    share_percent: int = 100
    """How much of a limit that is shared with others this call may fill; less for batch work."""
    issuer: str | None = None
    """Issuer of the token it came with; None for a key and for the gateway's own tokens."""
    issued_at: int | None = None
    """Unix seconds at which the token was issued; None for a key."""
    batch: bool = False
    """Whether its key is for work that nobody waits for, which gives way where limits are shared."""
    counts_as: str | None = None
    """The key whose limits and budgets this one shares; None: its own."""

    @property
    def counted_key(self) -> str | None:
        """The key that limits and budgets of keys count: the first of its line."""
        return self.counts_as or self.key_id
