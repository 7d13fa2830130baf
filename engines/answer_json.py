"""Decode what an upstream sent: valid UTF-8 and JSON of the expected shape, or Garbled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from engines.errors import Garbled

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """The value; raises Garbled for anything else."""
    try:
        if not body.isascii():
            body.decode()
        return decode(body)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
        raise Garbled("an answer is not JSON of the expected shape") from exc
