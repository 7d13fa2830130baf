"""Dollars as people write them, and the integer nano-dollars (1e-9 USD) that everything else counts in.

No float is ever between the two: what was entered is what is stored, and it reads back the same.
"""

from __future__ import annotations

import re

NANO = 1_000_000_000
_DOLLARS = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,9}))?", re.ASCII)


def nano_of(text: str) -> int:
    """The nano-dollars of a decimal amount such as `12.50`; raises ValueError for anything else."""
    found = _DOLLARS.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no amount of dollars; it is written such as 12.50, to at most 9 decimals"
        )
    return int(found[1]) * NANO + int((found[2] or "").ljust(9, "0"))


def usd_of(nano_usd: int) -> str:
    """The same in dollars, with two decimals or as many as it takes."""
    sign, rest = ("-", -nano_usd) if nano_usd < 0 else ("", nano_usd)
    fraction = f"{rest % NANO:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{rest // NANO}.{fraction}"
