"""The accelerators that plans are made for: memory, bandwidth and peak rates, from their makers' data sheets.

Rates are dense (without the doubling that structured sparsity allows), in operations a second; bandwidths in bytes a
second; memory as it is sold, in 1e9 bytes, which is a little less than a card reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp8"]


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator."""

    name: str
    memory: int
    bandwidth: float
    bf16: float
    fp8: float | None
    """None where the card has no 8-bit floating-point units."""
    link: float
    """To another card of the same machine, one direction, bytes a second."""

    def peak(self, precision: Precision) -> float:
        """Operations a second; raises ValueError where the card cannot compute so."""
        if precision == "bf16":
            return self.bf16
        if self.fp8 is None:
            raise ValueError(f"{self.name} has no fp8 units; plan it with bf16")
        return self.fp8


# NVIDIA: H100 data sheet (SXM and PCIe columns), H200, A100 80GB SXM, L40S, L4 and HGX B200 data sheets; the
# published rates with sparsity are halved. AMD: Instinct MI300X data sheet.
CARDS = {
    card.name: card
    for card in (
        Card("h100", 80 * 10**9, 3.35e12, 989e12, 1979e12, 450e9),
        Card("h100-pcie", 80 * 10**9, 2.0e12, 756e12, 1513e12, 64e9),
        Card("h200", 141 * 10**9, 4.8e12, 989e12, 1979e12, 450e9),
        Card("a100-80", 80 * 10**9, 2.039e12, 312e12, None, 300e9),
        Card("l40s", 48 * 10**9, 0.864e12, 362e12, 733e12, 32e9),
        Card("l4", 24 * 10**9, 0.3e12, 121e12, 242e12, 32e9),
        Card("b200", 180 * 10**9, 8.0e12, 2250e12, 4500e12, 900e9),
        Card("mi300x", 192 * 10**9, 5.3e12, 1307e12, 2615e12, 448e9),
    )
}
