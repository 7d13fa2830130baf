"""Nobody hands on more than they hold: over generated roles, groups within groups, grants and keys."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.administration import (
    OF_EVERYONE,
    OF_ROLE,
    Permission,
    may_administer,
    may_change_members,
    may_grant,
    may_mint,
    may_see_members,
    may_see_sharing,
    roles_given,
)
from policies.catalog import Endpoint, Snapshot
from policies.permissions import Level, granted, may
from policies.principal import Caller, Group, Principal, PrincipalKind, Role

ENDPOINTS = tuple(Endpoint(id=f"e{n}", name=f"e{n}", task="llm/v1/chat", entities=()) for n in range(2))
GROUP_IDS = ("g0", "g1", "g2", "g3")
ROLE_SETS = st.frozensets(st.sampled_from(Role))
PLANES = st.frozensets(st.sampled_from(["data", "control"]), min_size=1)
SCOPES = st.one_of(st.none(), st.frozensets(st.sampled_from(["e0", "e1"])))


_NO_ROLES = st.just(frozenset[Role]())
_SOME_ROLES = _NO_ROLES | ROLE_SETS
_MANAGERS = st.frozensets(st.sampled_from(["u", *GROUP_IDS]), max_size=2)
_SOME_GROUPS = st.frozensets(st.sampled_from(GROUP_IDS), max_size=3)
_GRANTS = st.dictionaries(st.sampled_from(["u", *GROUP_IDS]), st.sampled_from(Level), max_size=3)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Snapshot, Caller]:
    """A configuration and somebody in it, with the roles of their groups resolved as a snapshot does."""
    groups: dict[str, Group] = {}
    for number, each in enumerate(GROUP_IDS):
        parents = draw(_SOME_GROUPS) & set(GROUP_IDS[:number])
        groups[each] = Group(each, each, tuple(sorted(parents)), draw(_MANAGERS), draw(_SOME_ROLES))
    within = draw(_SOME_GROUPS)
    around = set(within)
    for each in reversed(GROUP_IDS):
        if each in around:
            around |= set(groups[each].parents)
    own = draw(_SOME_ROLES)
    held = own.union(*(groups[each].roles for each in around))
    grants = {each.id: draw(_GRANTS) for each in ENDPOINTS}
    who = Principal("u", PrincipalKind.USER, "alice", tuple(sorted(around)), held, own_roles=own)
    snapshot = Snapshot(1, principals={"u": who}, groups=groups, grants=grants)
    caller = Caller(who, key_id="k", endpoints=draw(SCOPES), planes=draw(PLANES))
    return snapshot, caller


@given(worlds(), st.sampled_from(ENDPOINTS), st.sampled_from(Level))
def test_no_grant_exceeds_its_grantor(
    world: tuple[Snapshot, Caller], endpoint: Endpoint, level: Level
) -> None:
    snapshot, caller = world
    if may_grant(snapshot, caller, endpoint, level):
        held, _ = granted(snapshot, caller, endpoint)
        assert held is Level.CAN_MANAGE
        assert held >= level
        assert may(snapshot, caller, level, endpoint), "the key's confinement included"


@given(worlds(), st.sampled_from(GROUP_IDS))
def test_no_change_of_members_hands_on_a_role_that_is_not_held(
    world: tuple[Snapshot, Caller], group_id: str
) -> None:
    snapshot, caller = world
    group = snapshot.groups[group_id]
    if may_change_members(snapshot, caller, group):
        who = caller.principal
        assert roles_given(snapshot, group) <= who.roles or who.is_admin
        assert who.is_admin or group.managers & {who.id, *who.groups}
        assert caller.endpoints is None
        assert may_see_members(caller, group), "who may change may also look"


@given(worlds(), st.sampled_from(Permission), ROLE_SETS)
def test_more_roles_never_take_away_what_fewer_give(
    world: tuple[Snapshot, Caller], permission: Permission, more: frozenset[Role]
) -> None:
    _, caller = world
    richer = replace(caller, principal=replace(caller.principal, roles=caller.principal.roles | more))
    if may_administer(caller, permission):
        assert may_administer(richer, permission)
    if may_administer(richer, permission) and not may_administer(caller, permission):
        assert any(permission in OF_ROLE[role] for role in more - caller.principal.roles)


@given(worlds(), PLANES, SCOPES)
def test_no_key_reaches_further_than_the_key_that_makes_it(
    world: tuple[Snapshot, Caller], planes: frozenset[str], scope: frozenset[str] | None
) -> None:
    _, maker = world
    if may_mint(maker, planes, scope):
        made = replace(maker, planes=planes, endpoints=scope)
        for permission in Permission:
            if may_administer(made, permission):
                assert may_administer(maker, permission)
        for endpoint in ENDPOINTS:
            snapshot = Snapshot(1, grants={endpoint.id: {"u": Level.CAN_MANAGE}})
            if may(snapshot, made, Level.CAN_QUERY, endpoint):
                assert may(snapshot, maker, Level.CAN_QUERY, endpoint)


@given(worlds(), st.sampled_from(ENDPOINTS), st.sampled_from(GROUP_IDS))
def test_an_auditor_sees_all_and_changes_nothing_that_it_neither_manages_nor_owns(
    world: tuple[Snapshot, Caller], endpoint: Endpoint, group_id: str
) -> None:
    snapshot, caller = world
    auditor = replace(
        caller,
        principal=replace(caller.principal, roles=frozenset({Role.AUDITOR}), groups=()),
        endpoints=None,
        planes=frozenset({"data", "control"}),
    )
    bare = replace(
        snapshot,
        grants={},
        groups={each: replace(group, managers=frozenset()) for each, group in snapshot.groups.items()},
    )
    group = bare.groups[group_id]
    assert may_see_members(auditor, group)
    assert may_see_sharing(bare, auditor, endpoint)
    assert not may_change_members(bare, auditor, group)
    assert not any(may_grant(bare, auditor, endpoint, level) for level in Level)
    for permission in Permission:
        assert bool(may_administer(auditor, permission)) == (
            permission in OF_EVERYONE or permission.endswith(":read")
        )
