"""A hundred thousand random key ids, and valid users among them; `make soak` runs it."""

from __future__ import annotations

from tests.identity.conftest import signer
from tests.identity.signing import Signer
from tests.identity.test_jwks import flood_of_kids

__all__ = ["signer"]


async def test_a_hundred_thousand_random_kids_cost_one_fetch_in_thirty_seconds(signer: Signer) -> None:
    print(await flood_of_kids(signer, 100_000))
