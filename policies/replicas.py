"""Which address of an entity takes a call: the less loaded of two, or the one that has seen how it begins.

Affinity is bounded: a replica that has more to do than its share gives the call to the next one of that prefix, which
stays the next one while replicas come and go (rendezvous hashing). A system prompt that conversations share binds less
than a conversation: any replica has read it after the first call, so it is worth its own tokens and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from policies.conversation import Prefix

SPILL_FACTOR = 1.25
"""How far above the mean of outstanding tokens a replica may be and still take what has affinity to it."""
_SLACK_TOKENS = 2_000
"""What may be outstanding before affinity ever gives way: with little to do, nothing is uneven."""
_HALF_LIFE_MS = 5_000
"""After which a latency counts half, unless it is measured again."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is known of one address."""

    key: str
    calls: int
    """Under way."""
    tokens: int
    """Estimated tokens of these."""
    latency_us: float
    """Faded time to the first token; 0 where nothing was measured yet."""


def least_loaded(loads: Sequence[Load], first: float, second: float) -> int:
    """The better of two that are drawn (power of two choices): expected wait is latency times calls ahead."""
    count = len(loads)
    if count == 1:
        return 0
    one = int(first * count)
    other = int(second * (count - 1))
    if other >= one:
        other += 1
    # Who was never measured is taken for as fast as its rival, so that it gets calls and is.
    latency_one = loads[one].latency_us or loads[other].latency_us or 1.0
    latency_other = loads[other].latency_us or loads[one].latency_us or 1.0
    cost_one = latency_one * (loads[one].calls + 1)
    cost_other = latency_other * (loads[other].calls + 1)
    return one if cost_one <= cost_other else other


def by_prefix(loads: Sequence[Load], prefix: Prefix, tokens: int, home: str | None = None) -> int:
    """Where a call goes that begins so: `home` is where its conversation was last, if that is known.

    A conversation that has none goes by its system prompt, if that is long: to that prompt's own replica, unless the
    least loaded one would have read the prompt anew by the time that one is free. All others go to the first of the
    conversation's replicas, in its own order, that has not more than its share to do.
    """
    mean = (sum(each.tokens for each in loads) + tokens) / len(loads)
    bound = max(SPILL_FACTOR * mean, mean + _SLACK_TOKENS)
    if home is not None:
        for at, each in enumerate(loads):
            if each.key == home and each.tokens + tokens <= bound:
                return at
    elif prefix.shared is not None:
        first, least = (
            _order(loads, prefix.shared)[0],
            min(range(len(loads)), key=lambda at: loads[at].tokens),
        )
        return first if loads[first].tokens <= loads[least].tokens + prefix.shared_tokens else least
    order = _order(loads, prefix.conversation)
    for at in order:
        if loads[at].tokens + tokens <= bound:
            return at
    return min(order, key=lambda at: loads[at].tokens)


def faded(latency_us: float, sample_us: float, elapsed_us: float) -> float:
    """The faded latency after another sample: worse ones count at once, better ones within some ten seconds."""
    if latency_us <= 0 or sample_us >= latency_us:
        return sample_us
    share = min(1.0, 0.1 + elapsed_us / 10_000_000)
    return latency_us + (sample_us - latency_us) * share


def remembered(latency_us: float, idle_ms: int) -> float:
    """What a latency counts for that was last measured so long ago: one that was slow once is tried again, however little there is to do."""
    return latency_us * 0.5 ** (max(0, idle_ms) / _HALF_LIFE_MS)


def _order(loads: Sequence[Load], prefix: bytes) -> list[int]:
    """The replicas of a prefix, its first one first."""
    return sorted(range(len(loads)), key=lambda at: _rank(prefix, loads[at].key), reverse=True)


def _rank(prefix: bytes, key: str) -> bytes:
    return blake2b(prefix + key.encode(), digest_size=8).digest()
