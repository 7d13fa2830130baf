"""Who may do what to endpoints and on the control plane: tables, and the laws that hold over all of them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.administration import OF_EVERYONE, OF_ROLE, Permission, may_administer, may_grant, may_mint
from policies.catalog import Endpoint, Snapshot
from policies.permissions import Level, granted, may
from policies.principal import Caller, Principal, PrincipalKind, Role

CHAT = Endpoint(id="e1", name="chat", task="llm/v1/chat", entities=())
OTHER = Endpoint(id="e2", name="other", task="llm/v1/chat", entities=())
LEVELS = [None, *Level]


def caller(
    *groups: str,
    roles: frozenset[Role] = frozenset(),
    endpoints: frozenset[str] | None = None,
    planes: frozenset[str] = frozenset({"data", "control"}),
) -> Caller:
    who = Principal(id="u", kind=PrincipalKind.USER, name="alice", groups=groups, roles=roles)
    return Caller(who, key_id="k", endpoints=endpoints, planes=planes)


def with_grants(**grants: Level | None) -> Snapshot:
    return Snapshot(1, grants={"e1": {name: level for name, level in grants.items() if level is not None}})


@pytest.mark.parametrize(("held", "asked"), list(product(LEVELS, Level)))
def test_a_level_contains_the_ones_below_it_and_no_other(held: Level | None, asked: Level) -> None:
    assert bool(may(with_grants(u=held), caller(), asked, CHAT)) == (held is not None and held >= asked)


@pytest.mark.parametrize(("own", "first", "second", "asked"), list(product(LEVELS, LEVELS, LEVELS, Level)))
def test_the_highest_grant_counts_wherever_it_comes_from(
    own: Level | None, first: Level | None, second: Level | None, asked: Level
) -> None:
    best = max((each for each in (own, first, second) if each is not None), default=None)
    decision = may(with_grants(u=own, g1=first, g2=second), caller("g1", "g2"), asked, CHAT)
    assert bool(decision) == (best is not None and best >= asked)


def test_a_grant_on_one_endpoint_or_to_another_principal_gives_nothing() -> None:
    snapshot = with_grants(u=Level.CAN_MANAGE, g9=Level.CAN_MANAGE)
    assert not may(snapshot, caller(), Level.CAN_VIEW, OTHER)
    assert not may(with_grants(v=Level.CAN_MANAGE, g9=Level.CAN_MANAGE), caller("g1"), Level.CAN_VIEW, CHAT)


@pytest.mark.parametrize("level", Level)
def test_an_administrator_may_do_everything_and_an_auditor_queries_nothing(level: Level) -> None:
    assert may(Snapshot(1), caller(roles=frozenset({Role.ADMIN})), level, CHAT)
    assert not may(Snapshot(1), caller(roles=frozenset({Role.AUDITOR})), level, CHAT)


@pytest.mark.parametrize("roles", [frozenset(), frozenset({Role.ADMIN})])
def test_a_confined_key_reaches_only_what_it_names(roles: frozenset[Role]) -> None:
    snapshot = Snapshot(1, grants={each: {"u": Level.CAN_MANAGE} for each in ("e1", "e2")})
    confined = caller(roles=roles, endpoints=frozenset({"e2"}))
    assert not may(snapshot, confined, Level.CAN_VIEW, CHAT)
    assert may(snapshot, confined, Level.CAN_QUERY, OTHER)


def test_a_refusal_names_the_permission_the_endpoint_and_the_principal() -> None:
    refusal = may(with_grants(u=Level.CAN_VIEW), caller(), Level.CAN_QUERY, CHAT)
    for word in ("CAN_QUERY", "CAN_VIEW", "chat", "alice"):
        assert word in refusal.reason  # type: ignore[union-attr]


@pytest.mark.parametrize("permission", Permission)
def test_the_control_plane_is_closed_but_to_roles(permission: Permission) -> None:
    everyone = permission in OF_EVERYONE
    assert bool(may_administer(caller(), permission)) == everyone
    assert bool(may_administer(caller(roles=frozenset({Role.AUDITOR})), permission)) == (
        everyone or permission.endswith(":read")
    )
    assert may_administer(caller(roles=frozenset({Role.ADMIN})), permission)


@pytest.mark.parametrize("permission", Permission)
def test_a_key_administers_only_on_its_planes_and_only_unconfined(permission: Permission) -> None:
    admin = frozenset({Role.ADMIN})
    plane = permission.partition(":")[0]
    for planes in (frozenset({"data"}), frozenset({"control"})):
        assert bool(may_administer(caller(roles=admin, planes=planes), permission)) == (plane in planes)
    confined = caller(roles=admin, endpoints=frozenset({"e1"}))
    assert bool(may_administer(confined, permission)) == (permission in OF_EVERYONE)


def test_no_role_but_the_administrators_writes() -> None:
    for role, permissions in OF_ROLE.items():
        assert role is Role.ADMIN or not any(each.endswith(":write") for each in permissions)


levels = st.sampled_from(Level)
maybe_level = st.none() | levels
scopes = st.none() | st.frozensets(st.sampled_from(["e1", "e2", "e3"]))
planes = st.frozensets(st.sampled_from(["data", "control"]), min_size=1)


@given(own=maybe_level, group=maybe_level, wanted=levels, is_admin=st.booleans(), scope=scopes)
def test_a_grant_never_exceeds_its_grantor(
    own: Level | None, group: Level | None, wanted: Level, is_admin: bool, scope: frozenset[str] | None
) -> None:
    snapshot = with_grants(u=own, g1=group)
    grantor = caller("g1", roles=frozenset({Role.ADMIN} if is_admin else ()), endpoints=scope)
    if may_grant(snapshot, grantor, CHAT, wanted):
        held, _ = granted(snapshot, grantor, CHAT)
        assert held is Level.CAN_MANAGE
        assert held >= wanted
        assert may(snapshot, grantor, wanted, CHAT)


@given(own_planes=planes, own_scope=scopes, new_planes=planes, new_scope=scopes)
def test_a_key_never_reaches_further_than_the_key_that_made_it(
    own_planes: frozenset[str],
    own_scope: frozenset[str] | None,
    new_planes: frozenset[str],
    new_scope: frozenset[str] | None,
) -> None:
    maker = caller(planes=own_planes, endpoints=own_scope)
    made = caller(planes=new_planes, endpoints=new_scope)
    snapshot = Snapshot(1, grants={each: {"u": Level.CAN_QUERY} for each in ("e1", "e2", "e3")})
    if may_mint(maker, new_planes, new_scope):
        assert made.planes <= maker.planes
        for each in ("e1", "e2", "e3"):
            endpoint = Endpoint(id=each, name=each, task="llm/v1/chat", entities=())
            assert not may(snapshot, made, Level.CAN_QUERY, endpoint) or may(
                snapshot, maker, Level.CAN_QUERY, endpoint
            )
