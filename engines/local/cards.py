"""The NVIDIA cards of this machine, as their driver tells of them; no more than a recipe needs.

A driver that does not answer, or a line that cannot be read, is no card: then the engine runs on the CPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from engines.mixture.cards import Card

_FIELDS = "index,uuid,name,memory.total,compute_cap"
_FP8_SINCE = (8, 9)
"""Compute capability from which cards have 8-bit floating-point units (Ada Lovelace, Hopper and later)."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CardAtHand:
    """One card of this machine."""

    index: str
    uuid: str
    name: str
    memory: int
    """Bytes, all of them."""
    fp8: bool

    def planned(self) -> Card:
        """As recipes know cards. Rates are not told by a driver, and no recipe asks for them."""
        return Card(self.name, self.memory, 0.0, 0.0, 0.0 if self.fp8 else None, 0.0)


def read_cards(told: str) -> tuple[CardAtHand, ...]:
    """What `nvidia-smi --query-gpu=index,uuid,name,memory.total,compute_cap --format=csv,noheader,nounits` says."""
    found: list[CardAtHand] = []
    for line in told.splitlines():
        parts = [each.strip() for each in line.split(",")]
        if len(parts) != 5:
            continue
        index, uuid, name, memory, capability = parts
        major, _, minor = capability.partition(".")
        # A card in trouble says [N/A] or [Unknown Error] instead of numbers.
        if index.isdecimal() and memory.isdecimal() and major.isdecimal() and minor.isdecimal():
            fp8 = (int(major), int(minor)) >= _FP8_SINCE
            found.append(CardAtHand(index, uuid, name, int(memory) * _MIB, fp8))
    return tuple(found)


def visible(cards: Sequence[CardAtHand], named: str | None) -> tuple[CardAtHand, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; like CUDA it ends at the first name that is none."""
    if named is None:
        return tuple(cards)
    left: list[CardAtHand] = []
    for name in (each.strip() for each in named.split(",")):
        found = [card for card in cards if name and (card.index == name or card.uuid.startswith(name))]
        if len(found) != 1 or found[0] in left:
            break
        left += found
    return tuple(left)


def cards_at_hand() -> tuple[CardAtHand, ...]:
    """The cards that an engine started from here would see."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    asked = [command, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, timeout=20, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    return visible(read_cards(answer.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))
