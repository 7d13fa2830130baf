"""Follows the audit's chain from its first entry and names the first bad one.

Found without trusting anything in the database: edits, deletions, insertions and reorderings by the chain, whose key
is elsewhere; what was cut off the end by heads that were exported before. Contents may be erased: their digests stand.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, text

from gateway.store.audit import ERASE, GENESIS, SEAL, Head, Scope, chained, salted

_PAGE = 1000
_FIELDS = frozenset({"number", "at_us", "actor", "action", "object_kind", "object_id", "content"})
_SHOWN = ("actor", "action", "object_kind", "object_id")
_REFUSAL = ("span_ms", "count", "plane", "code", "limit_id", "principal_id", "asked", "address")
_ENTRIES = text("""
    SELECT number, body, digest, at, actor, action, object_kind, object_id, salt, content, before, after, reason,
           content IS NOT NULL AS has_content
    FROM gateway.audit_entries LEFT JOIN gateway.audit_contents USING (number)
    WHERE number > :after ORDER BY number LIMIT :size
""")
_SEALED = text("""
    SELECT seal::text AS seal, position, digest, salt, content, at, span_ms, count, plane, code, limit_id,
           principal_id, asked, address
    FROM gateway.audit_refusals WHERE seal = ANY(CAST(:seals AS uuid[])) ORDER BY seal, position
""")
_STRAYS = text("""
    SELECT count(*) FROM gateway.audit_refusals AS refusal WHERE NOT EXISTS (
        SELECT FROM gateway.audit_entries
        WHERE object_kind = 'refusals' AND object_id = refusal.seal::text AND action = 'refusals.seal')
""")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found; all is well where `problem` is None."""

    entries: int
    """Good ones, from the first on."""
    refusals: int
    """Refusals that these seal."""
    erased: int
    """Entries and refusals whose contents were erased, which is allowed."""
    unrecorded: int
    """Of the entries among these, those that no later entry says were erased."""
    bad: int | None
    """Number of the first bad entry."""
    problem: str | None
    head: Head


class _Chain:
    """The state of following: what was good so far."""

    def __init__(self, keys: Sequence[bytes], known: Mapping[int, bytes]) -> None:
        self.number, self.digest = 0, GENESIS
        self.refusals = self.erased_refusals = 0
        self._without: set[int] = set()
        self._said: set[int] = set()
        self._keys = list(keys)
        self._known = known

    def take(self, row: Row[Any], sealed: Sequence[Row[Any]]) -> str | None:
        """Take the next entry, or say what is wrong with it."""
        number, digest = self.number + 1, bytes(row.digest)
        if row.number != number:
            return "is missing" if row.number > number else "was put before the first one"
        if not self._fits(digest, row.body):
            return "does not fit its digest and the entry before it"
        if number in self._known and self._known[number] != digest:
            return "is not the one whose head was exported"
        told = json.loads(row.body)
        if told.get("number") != number or told.keys() != _FIELDS:
            return "says of itself that it is another"
        if any(getattr(row, name) != told[name] for name in _SHOWN) or _us(row.at) != told["at_us"]:
            return "is shown otherwise than it was recorded"
        if told["action"] == SEAL:
            problem = self._take_refusals(told["content"], sealed) if not row.has_content else "has contents"
        else:
            problem = self._take_content(row, number, told["content"])
        if problem is not None:
            return problem
        if told["action"] == ERASE and told["object_id"].isdecimal():
            self._said.add(int(told["object_id"]))
        self.number, self.digest = number, digest
        return None

    def verdict(self, bad: int | None = None, problem: str | None = None) -> Verdict:
        """What was found."""
        return Verdict(
            self.number,
            self.refusals,
            len(self._without) + self.erased_refusals,
            len(self._without - self._said),
            bad,
            problem,
            Head(self.number, self.digest),
        )

    def _fits(self, digest: bytes, body: str) -> bool:
        for place, key in enumerate(self._keys):
            if hmac.compare_digest(chained(key, self.digest, body), digest):
                # Keys change seldom: the next entry is tried with this one first.
                self._keys.insert(0, self._keys.pop(place))
                return True
        return False

    def _take_content(self, row: Row[Any], number: int, recorded: str) -> str | None:
        if not row.has_content:
            self._without.add(number)
            return None
        if salted(bytes(row.salt), row.content).hex() != recorded:
            return "has contents that are not those recorded"
        content = json.loads(row.content)
        if any(getattr(row, name) != content[name] for name in ("before", "after", "reason")):
            return "has contents that are shown otherwise than they were recorded"
        return None

    def _take_refusals(self, recorded: str, sealed: Sequence[Row[Any]]) -> str | None:
        whole = sha256()
        kept: list[Row[Any]] = []
        for position, row in enumerate(sealed, 1):
            digest = bytes(row.digest)
            whole.update(digest)
            if row.position != position:
                return f"seals refusals of which number {position} is missing"
            if row.content is None or row.salt is None:
                if row.at is not None or any(row._mapping[name] is not None for name in _REFUSAL):
                    return f"seals refusals of which number {position} is shown and was erased"
                continue
            if salted(bytes(row.salt), row.content) != digest:
                return f"seals refusals of which number {position} is not the one recorded"
            kept.append(row)
        if whole.hexdigest() != recorded:
            return "seals refusals that are not those recorded"
        for row in kept:
            content, shown = json.loads(row.content), row._mapping
            if (
                any(shown[name] != content[name] for name in _REFUSAL)
                or _us(row.at) != content["at_ms"] * 1000
            ):
                return (
                    f"seals refusals of which number {row.position} is shown otherwise than it was recorded"
                )
        self.erased_refusals += len(sealed) - len(kept)
        self.refusals += len(sealed)
        return None


async def verify(connection: Scope, keys: bytes | Sequence[bytes], *, known: Sequence[Head] = ()) -> Verdict:
    """Follow the chain; `keys` are all that its key was, `known` are heads that were exported before."""
    heads = {head.number: head.digest for head in known}
    chain = _Chain([keys] if isinstance(keys, bytes) else keys, heads)
    after = -(2**63)
    while True:
        page = (await connection.execute(_ENTRIES, {"after": after, "size": _PAGE})).all()
        seals = [row.object_id for row in page if row.action == SEAL and _is_uuid(row.object_id)]
        sealed: dict[str, list[Row[Any]]] = {}
        if seals:
            for row in await connection.execute(_SEALED, {"seals": seals}):
                sealed.setdefault(row.seal, []).append(row)
        for row in page:
            problem = chain.take(row, sealed.get(row.object_id, ()))
            if problem is not None:
                return chain.verdict(chain.number + 1, problem)
            after = row.number
        if len(page) < _PAGE:
            break
    last = max(heads, default=0)
    if chain.number < last:
        return chain.verdict(
            chain.number + 1, f"is missing, as are all up to {last}, whose head was exported"
        )
    strays = await connection.scalar(_STRAYS)
    if strays:
        return chain.verdict(None, f"{strays} refusals are sealed by no entry")
    return chain.verdict()


def _us(at: datetime | None) -> int | None:
    if at is None:
        return None
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _is_uuid(value: str | None) -> bool:
    return value is not None and len(value) == 36 and value.count("-") == 4


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
