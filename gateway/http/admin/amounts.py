"""Amounts of money in bodies: integer nano-dollars (1e-9 USD), or dollars as a decimal text; never both."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.errors import BadRequest
from policies.limits import LARGEST
from policies.money import nano_of, usd_of

NanoUsd = Annotated[
    int, Meta(ge=0, le=LARGEST, description="Nano-dollars (1e-9 USD).", examples=[25_000_000_000])
]
Usd = Annotated[
    str,
    Meta(
        max_length=20,
        pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$",
        description="Dollars, with up to nine decimals.",
        examples=["25.00"],
    ),
]


def amount_of(nano_usd: int | None, usd: str | None) -> int | None:
    """The amount in nano-dollars, None where none was given; raises BadRequest for two, or for too much."""
    if nano_usd is not None and usd is not None:
        raise BadRequest("Give the amount once: as nano_usd or as usd.", param="usd")
    if usd is None:
        return nano_usd
    amount = nano_of(usd)
    if amount > LARGEST:
        raise BadRequest(f"usd takes up to {usd_of(LARGEST)}.", param="usd")
    return amount
