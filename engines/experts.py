"""Which experts a mixture's tokens went to, as vLLM tells it in plain answers; sans-I/O.

An answer says for every token but the last which experts of each layer it was routed to, as a NumPy file in base64 (vLLM's
`--enable-return-routed-experts`). It is counted and taken out, so that clients get what they get without that option: none
asked for it, and it is longer than the answer.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ROUTED = b'"routed_experts":"'
"""What an answer holds that tells anything."""
MOST_BYTES = 16 << 20
"""Of one answer's routing; a longer one is not counted."""
# An unescaped quote before and after a name cannot stand inside a JSON text.
_FIELD = re.compile(rb'"routed_experts":"([A-Za-z0-9+/]*={0,2})"')
_NOTHING = b'"routed_experts":null'
_HEAD = re.compile(
    rb"'descr': '[|<](u1|u2|i4)', 'fortran_order': False, 'shape': \((\d+), (\d+), (\d+)\)", re.ASCII
)
_LETTERS = {b"u1": "B", b"u2": "H", b"i4": "i"}


@dataclass(slots=True)
class ExpertLoad:
    """Tokens by layer and expert, since it was made or last taken."""

    counts: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])

    def read(self, body: bytes) -> bytes:
        """Count what an answer tells, and answer it without that."""
        found = _FIELD.findall(body)
        if not found:
            return body
        for each in found:
            self._count(each)
        return _FIELD.sub(_NOTHING, body)

    def taken(self) -> Counter[tuple[int, int]]:
        """What was counted since this was last asked."""
        counts, self.counts = self.counts, Counter()
        return counts

    def _count(self, encoded: bytes) -> None:
        if len(encoded) > MOST_BYTES:
            return
        try:
            routed = binascii.a2b_base64(encoded)
        except binascii.Error:
            return
        # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
        long = routed[6:7] >= b"\x02"
        begin = 12 if long else 10
        length = int.from_bytes(routed[8:begin], "little")
        head = _HEAD.search(routed[begin : begin + length])
        if routed[:6] != b"\x93NUMPY" or head is None:
            return
        tokens, layers, chosen = (int(each) for each in head.groups()[1:])
        width = int(head[1][1:])
        data = routed[begin + length :]
        if not tokens or len(data) != tokens * layers * chosen * width:
            return
        experts = struct.unpack(f"<{len(data) // width}{_LETTERS[head[1]]}", data)
        for place in range(layers * chosen):
            for expert, count in Counter(experts[place :: layers * chosen]).items():
                self.counts[place // chosen, expert] += count


@dataclass(frozen=True, slots=True)
class LayerBalance:
    """How evenly one layer's tokens went to its experts."""

    layer: int
    tokens: int
    """Tokens times the experts that each goes to."""
    busiest: int
    busiest_share: float
    idlest: int
    idlest_share: float
    skew: float
    """The busiest expert's tokens over the mean: 1 is even, and how much longer the layer takes where each has a card."""


def balances(counts: Mapping[tuple[int, int], float], experts: int | None = None) -> list[LayerBalance]:
    """The balance of each layer; `experts` is how many there are, where some may have had no token at all."""
    by_layer: dict[int, dict[int, float]] = {}
    for (layer, expert), count in counts.items():
        by_layer.setdefault(layer, {})[expert] = count
    many = experts or 1 + max((expert for _, expert in counts), default=-1)
    return [_balance(layer, _filled(found, many)) for layer, found in sorted(by_layer.items())]


def _filled(found: Mapping[int, float], experts: int) -> list[float]:
    return [found.get(expert, 0.0) for expert in range(experts)]


def _balance(layer: int, counts: Iterable[float]) -> LayerBalance:
    each = list(counts)
    total = sum(each)
    most, least = max(each), min(each)
    return LayerBalance(
        layer=layer,
        tokens=int(total),
        busiest=each.index(most),
        busiest_share=most / total if total else 0.0,
        idlest=each.index(least),
        idlest_share=least / total if total else 0.0,
        skew=most * len(each) / total if total else 1.0,
    )
