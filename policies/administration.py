"""What a caller may do on the control plane: one function over roles and the caller's own key.

Default deny: a permission that no role of the caller gives is refused, and a confined key never administers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from policies.catalog import Endpoint, Snapshot
from policies.decision import Allow, Decision, Deny
from policies.permissions import Level, granted
from policies.principal import Caller, Group, Role


class Permission(StrEnum):
    """What a route of the control plane asks for: `<plane>:<resource>:<action>`, in order of name."""

    ADAPTERS_READ = "control:adapters:read"
    ADAPTERS_WRITE = "control:adapters:write"
    """Upload fine-tuned adapters of the local engine, and take them away."""
    AUDIT_READ = "control:audit:read"
    BUDGETS_READ = "control:budgets:read"
    BUDGETS_WRITE = "control:budgets:write"
    CREDITS_READ = "control:credits:read"
    CREDITS_WRITE = "control:credits:write"
    DECLARATIONS_READ = "control:declarations:read"
    """Compare a file with what is there, and write one from it; shows what other permissions to read show."""
    DECLARATIONS_WRITE = "control:declarations:write"
    ENDPOINTS_READ = "control:endpoints:read"
    ENDPOINTS_WRITE = "control:endpoints:write"
    GRANTS_READ = "control:grants:read"
    GRANTS_WRITE = "control:grants:write"
    IDENTITY_READ = "control:identity:read"
    IDENTITY_WRITE = "control:identity:write"
    ISSUERS_READ = "control:issuers:read"
    ISSUERS_WRITE = "control:issuers:write"
    GROUPS_MANAGE = "control:groups:manage"
    """Read and change who is in the groups that the caller manages."""
    KEYS_READ = "control:keys:read"
    KEYS_WRITE = "control:keys:write"
    LIMITS_READ = "control:limits:read"
    LIMITS_WRITE = "control:limits:write"
    MODELS_READ = "data:models:read"
    """List the models that the caller may query."""
    PRICES_READ = "control:prices:read"
    PRICES_WRITE = "control:prices:write"
    PROVIDERS_READ = "control:providers:read"
    PROVIDERS_WRITE = "control:providers:write"
    """Set where providers of models are, and the credentials that pay for calls to them."""
    RESPONSES_OWN = "data:responses:own"
    """Read and delete one's own kept responses."""
    SELF_KEYS = "control:self:keys"
    """Read, make, rotate and revoke one's own keys."""
    SELF_READ = "control:self:read"
    SELF_SIGN_IN = "control:self:sign-in"
    """Exchange one's own key for a short-lived token, and end all such tokens."""
    SERVING_LIMIT = "control:serving:limit"
    """Set the rate limits of endpoints that the caller may manage, as far as administrators have not set them."""
    SERVING_MANAGE = "control:serving:manage"
    """Set what answers for endpoints that the caller may manage, their tags and features, and delete them."""
    SERVING_READ = "control:serving:read"
    """List and read endpoints as far as the caller's own grants go."""
    SERVING_SHARE = "control:serving:share"
    """Read and set permissions of endpoints that the caller may manage."""
    THROUGHPUT_READ = "control:throughput:read"
    THROUGHPUT_WRITE = "control:throughput:write"
    """Say what the local engine can do, and keep some of it for endpoints and groups."""
    WEBHOOKS_READ = "control:webhooks:read"
    WEBHOOKS_WRITE = "control:webhooks:write"


OF_EVERYONE = frozenset(
    {
        Permission.GROUPS_MANAGE,
        Permission.MODELS_READ,
        Permission.RESPONSES_OWN,
        Permission.SELF_KEYS,
        Permission.SELF_READ,
        Permission.SELF_SIGN_IN,
        Permission.SERVING_LIMIT,
        Permission.SERVING_MANAGE,
        Permission.SERVING_READ,
        Permission.SERVING_SHARE,
    }
)
_READING = frozenset(each for each in Permission if each.endswith(":read"))
OF_ROLE: Mapping[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.AUDITOR: _READING,
}


def may_administer(caller: Caller, permission: Permission) -> Decision:
    """Whether the caller may do this on the control plane; what it does to an endpoint is `may`'s to decide."""
    plane = permission.partition(":")[0]
    if plane not in caller.planes:
        return Deny(
            "permission_denied",
            f"This API key is not for the {plane} plane; use a key whose planes include {plane!r}.",
            "planes of the API key",
        )
    if permission in OF_EVERYONE:
        return Allow("everyone")
    if caller.endpoints is not None:
        return Deny(
            "permission_denied",
            "This API key is confined to endpoints and cannot administer; use a key without such a scope.",
            "scope of the API key",
        )
    for role in sorted(caller.principal.roles):
        if permission in OF_ROLE[role]:
            return Allow(f"role {role}")
    return Deny(
        "permission_denied",
        f"{caller.principal.name!r} lacks the permission {permission.value!r};"
        f" ask a holder of the role {_giving(permission)} to do it.",
    )


def may_mint(
    caller: Caller, planes: frozenset[str], endpoints: frozenset[str] | None, *, batch: bool = False
) -> Decision:
    """Whether a key of these scopes may be made: never one that reaches further than the key it is made with."""
    if caller.batch and not batch:
        return Deny(
            "permission_denied",
            "Your key is for batch work, so it cannot make one whose calls go before; ask for priority 'batch'.",
            "priority of the API key",
        )
    if not planes <= caller.planes:
        return Deny(
            "permission_denied",
            f"Your key does not cover the plane {min(planes - caller.planes)!r}, so it cannot make one that does.",
            "planes of the API key",
        )
    if caller.endpoints is not None and (endpoints is None or not endpoints <= caller.endpoints):
        return Deny(
            "permission_denied",
            "Your key is confined to endpoints, so it cannot make one that reaches others.",
            "scope of the API key",
        )
    return Allow("within the caller's own scopes")


def may_grant(snapshot: Snapshot, caller: Caller, endpoint: Endpoint, level: Level) -> Decision:
    """Whether the caller may give or take this level on the endpoint: only with CAN_MANAGE, never above its own."""
    if caller.endpoints is not None and endpoint.id not in caller.endpoints:
        return Deny(
            "permission_denied",
            f"This API key is confined to other endpoints than {endpoint.name!r}.",
            "scope of the API key",
        )
    held, rule = granted(snapshot, caller, endpoint)
    if held is None or held < Level.CAN_MANAGE:
        return Deny(
            "permission_denied",
            f"{caller.principal.name!r} lacks CAN_MANAGE on endpoint {endpoint.name!r};"
            " only its managers and administrators share it.",
            rule,
        )
    if level > held:
        return Deny("permission_denied", f"{level.name} is more than {held.name}, which you hold.", rule)
    return Allow(rule)


def may_see_sharing(snapshot: Snapshot, caller: Caller, endpoint: Endpoint) -> Decision:
    """Whether the caller may read who may use the endpoint: its managers, and who reads grants of all of them."""
    reading = may_administer(caller, Permission.GRANTS_READ)
    return reading if reading else may_grant(snapshot, caller, endpoint, Level.CAN_VIEW)


def may_see_members(caller: Caller, group: Group) -> Decision:
    """Whether the caller may read who is in the group: its managers, and who reads identities at all."""
    reading = may_administer(caller, Permission.IDENTITY_READ)
    return reading if reading else _manages(caller, group)


def may_change_members(snapshot: Snapshot, caller: Caller, group: Group) -> Decision:
    """Whether the caller may put members into the group or take them out.

    Who manages a group hands on what was granted to it: that is what the role delegates. Roles of the control plane are
    not: a group that gives one, itself or through a group that it is in, is changed only by who holds that role.
    """
    writing = may_administer(caller, Permission.IDENTITY_WRITE)
    if writing:
        return writing
    managing = _manages(caller, group)
    if not managing:
        return managing
    beyond = sorted(roles_given(snapshot, group) - caller.principal.roles)
    if beyond:
        return Deny(
            "permission_denied",
            f"Members of group {group.name!r} hold the role {beyond[0].value!r}, which you do not;"
            " only an administrator changes who is in it.",
            f"manager of group {group.id}",
        )
    return managing


def roles_given(snapshot: Snapshot, group: Group) -> frozenset[Role]:
    """Roles that the members of a group hold by being in it, those of the groups around it included."""
    found, seen, ahead = set[Role](), set[str](), [group.id]
    while ahead:
        each = snapshot.groups.get(ahead.pop())
        if each is not None and each.id not in seen:
            seen.add(each.id)
            found |= each.roles
            ahead.extend(each.parents)
    return frozenset(found)


def _manages(caller: Caller, group: Group) -> Decision:
    if caller.endpoints is not None:
        return Deny(
            "permission_denied",
            "This API key is confined to endpoints and cannot administer; use a key without such a scope.",
            "scope of the API key",
        )
    if group.managers & {caller.principal.id, *caller.principal.groups}:
        return Allow(f"manager of group {group.id}")
    return Deny(
        "permission_denied",
        f"{caller.principal.name!r} does not manage group {group.name!r};"
        " ask one of its managers, or an administrator.",
    )


def _giving(permission: Permission) -> str:
    return " or ".join(repr(role.value) for role in Role if permission in OF_ROLE[role])
