"""What each provision of throughput still covers, as one worker counts it, and what was charged to it here.

Charges of other workers are taken in as they tell them; a worker that hears nobody goes by its part of each rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from policies.throughput import Bucket, Provision


class Allowances:
    """The buckets of one worker."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._buckets: dict[str, Bucket] = {}
        self._rates: dict[str, int] = {}
        self.charged: dict[str, float] = {}
        """Tokens charged to each provision since the worker began, less what came back."""
        self.parts = 1
        """Workers among whom each rate is divided; 1 while they hear each other."""

    def follow(self, provisions: Iterable[Provision]) -> None:
        """Go by these from now on."""
        self._rates = {each.id: each.rate for each in provisions}
        for gone in self._buckets.keys() - self._rates.keys():
            del self._buckets[gone]
            self.charged.pop(gone, None)

    def covers(self, provision: Provision) -> bool:
        """Whether anything of its rate is left."""
        return self._filled(provision.id, provision.rate).covers

    def covers_in_ms(self, provision: Provision) -> float:
        """How long until something is."""
        return self._filled(provision.id, provision.rate).covers_in_ms(provision.rate)

    def charge(self, provision: Provision, tokens: float) -> None:
        """A call took so many, or so many less than it was charged."""
        if provision.id in self._rates:
            self.charged[provision.id] = self.charged.get(provision.id, 0.0) + tokens
            self._buckets[provision.id] = self._filled(provision.id, provision.rate).charged(tokens)

    def spend(self, provision_id: str, tokens: float) -> None:
        """What another worker charged."""
        rate = self._rates.get(provision_id)
        if rate is not None and tokens:
            self._buckets[provision_id] = self._filled(provision_id, rate).charged(tokens)

    def _filled(self, provision_id: str, rate: int) -> Bucket:
        now = self._clock_ms()
        own = rate / self.parts
        found = self._buckets.get(provision_id)
        filled = self._buckets[provision_id] = (
            Bucket.full(own, now) if found is None else found.filled(own, now)
        )
        return filled
