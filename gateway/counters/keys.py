"""Every key that the counters use, named in one place.

One hash tag for a deployment, so that a cluster keeps all keys of a script together; every key expires.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one deployment's keys."""

    deployment: str = "wb"

    def __post_init__(self) -> None:
        if not self.deployment or any(each in self.deployment for each in "{}: "):
            raise ValueError(f"{self.deployment!r} cannot name a deployment: no braces, colons or spaces")

    @property
    def epoch(self) -> bytes:
        """The generation of all counters; absent means that they are lost."""
        return self._key("epoch")

    @property
    def sequence(self) -> bytes:
        """Numbers the admissions."""
        return self._key("seq")

    @property
    def live(self) -> bytes:
        """Hash: worker -> when it was last seen."""
        return self._key("live")

    @property
    def rebuild(self) -> bytes:
        """The token of the rebuild that is under way."""
        return self._key("rebuild")

    def cuts(self, epoch: str) -> bytes:
        """Hash: worker -> up to which of its settlements the counters of this epoch came from the ledger."""
        return self._key(f"c:{epoch}")

    def window(self, limit_id: str, subject: str) -> bytes:
        """A sliding window's buckets."""
        return self._key(f"r:{limit_id}:{subject}")

    def period(self, limit_id: str, subject: str, start_ms: int) -> bytes:
        """One calendar period's count."""
        return self._key(f"p:{limit_id}:{subject}:{start_ms}")

    def concurrency(self, limit_id: str, subject: str) -> bytes:
        """Hash: worker -> how many it has running."""
        return self._key(f"n:{limit_id}:{subject}")

    def holds(self, epoch: str, worker_id: str) -> bytes:
        """Hash: admission -> what it took of counters that would keep it for long, until its settlement."""
        return self._key(f"h:{epoch}:{worker_id}")

    @property
    def memory_prefix(self) -> bytes:
        """What a request id follows: the memory of what was decided for it."""
        return self._key("q:")

    def claim(self, principal_id: str, digest: str) -> bytes:
        """A client's idempotency key, by its digest: names of clients stay out of Redis."""
        return self._key(f"i:{principal_id}:{digest}")

    def _key(self, rest: str) -> bytes:
        return f"{{{self.deployment}}}:{rest}".encode()
