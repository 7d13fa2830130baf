"""Whether an upstream's count can be true of what was sent and what came back.

There is no tokenizer here: a count is doubted where it cannot be at all, where a token would have to be less than a byte, or
where far fewer tokens are told than pieces of text came. What is doubted is charged as told, marked and counted.
"""

from __future__ import annotations

from enum import StrEnum

_TEMPLATE = 1_024
"""Tokens that a provider may put around any prompt."""
_MESSAGE = 64
"""And around each message."""
_FEW = 16
"""So few pieces say nothing."""


class Doubt(StrEnum):
    """What is wrong with a count."""

    IMPOSSIBLE = "impossible"
    """Negative, absurd, or its parts are more than the whole: it is not charged, the gateway's own count is."""
    INPUT = "input"
    """More tokens than bytes that were sent."""
    OUTPUT = "output"
    """More tokens than bytes that came back, thoughts aside."""
    FEW = "few"
    """Less than half of the output that came back."""

    @property
    def said(self) -> str:
        """In words, for the attempt that it is about."""
        return _SAID[self]


_SAID = {
    Doubt.IMPOSSIBLE: "its usage cannot be, and was not believed",
    Doubt.INPUT: "its usage has more input tokens than bytes were sent",
    Doubt.OUTPUT: "its usage has more output tokens than bytes came back",
    Doubt.FEW: "its usage has less than half of the output that came back",
}


def doubt(
    *, prompt: int, shown: int, sent_bytes: int, messages: int, pieces: int, answer_bytes: int
) -> Doubt | None:
    """What is wrong with a count of `prompt` and `shown` tokens (output but thoughts); None where it may be true.

    `pieces` is the output as it was counted here, of a stream; `answer_bytes` the length of a plain answer. 0 where it is not known.
    """
    if prompt > sent_bytes + _MESSAGE * messages + _TEMPLATE:
        return Doubt.INPUT
    if answer_bytes and shown > answer_bytes:
        return Doubt.OUTPUT
    if pieces > _FEW and 2 * shown < pieces:
        return Doubt.FEW
    return None
