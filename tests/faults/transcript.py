"""What a client saw of one call: the third witness beside the ledger and the oracle.

Delivered tokens are counted from what arrived, never from what the client asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

How = Literal[
    "complete",  # the whole answer arrived, with [DONE] where it was a stream
    "left",  # the client went away by its own plan
    "cut",  # the connection ended in the middle
    "error",  # a stream that ended with an error event
    "refused",  # an HTTP status of 400 or more
    "unreachable",  # no connection, or it ended before a byte
    "timeout",
]
COMPLETE: Final = "complete"


class Transcript(msgspec.Struct, omit_defaults=True):
    """One call as its client saw it."""

    call: int
    kind: str  # plain or stream
    leave: str = "never"
    started_at: float = 0.0
    request_id: str | None = None
    status: int = 0
    how: How = "unreachable"
    acknowledged: bool = False  # at least one byte of a response arrived
    delivered: int = 0  # completion tokens: by usage where the answer is whole, else content frames
    frames: int = 0
    usage_prompt: int | None = None
    usage_completion: int | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    bytes: int = 0
    first_byte_ms: float | None = None
    total_ms: float = 0.0

    @property
    def admitted(self) -> bool:
        """Whether the gateway said yes."""
        return self.status == 200


def write_transcripts(path: str | os.PathLike[str], transcripts: Iterable[Transcript]) -> None:
    """Append as JSON lines."""
    encode = msgspec.json.Encoder().encode
    with Path(path).open("ab") as file:
        file.writelines(encode(transcript) + b"\n" for transcript in transcripts)


def read_transcripts(path: str | os.PathLike[str]) -> list[Transcript]:
    """The transcripts of a JSON lines file."""
    decode = msgspec.json.Decoder(Transcript).decode
    return [decode(line) for line in Path(path).read_bytes().splitlines()]
