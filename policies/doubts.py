"""Whether an upstream's count can be true of what was sent and what came back.

There is no tokenizer here: a count is doubted where it cannot be at all, where a token would have to be less than a byte, where
fewer tokens are told than pieces of text came, each of which is one at least, and where far more are told than any tokenizer would
make of them. More tokens than pieces are no reason alone: many providers, and an engine under load, put several into one.
What is doubted is charged as told, marked and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from policies.recount import least_tokens, most_tokens

_TEMPLATE = 1_024
"""Tokens that a provider may put around any prompt."""
_MESSAGE = 64
"""And around each message."""
FEW = 16
"""So few pieces say nothing."""
_UNSEEN = 4
"""Tokens of an answer that nobody sees: its end, and what stopped it."""
_SMALL = 2.5
"""A local model's tokenizer may have but 2,000 words, and makes so many times the tokens of others."""


class Doubt(StrEnum):
    """What is wrong with a count."""

    IMPOSSIBLE = "impossible"
    """Negative, absurd, or its parts are more than the whole: it is not charged, the gateway's own count is."""
    INPUT = "input"
    """More tokens than bytes that were sent."""
    OUTPUT = "output"
    """More tokens than bytes that came back, thoughts aside."""
    FEW = "few"
    """Less than four fifths of the pieces that came back, or half of what their text was taken for."""

    MANY = "many"
    """More than six fifths of what the text that came back may be."""

    @property
    def said(self) -> str:
        """In words, for the attempt that it is about."""
        return _SAID[self]


_SAID = {
    Doubt.IMPOSSIBLE: "its usage cannot be, and was not believed",
    Doubt.INPUT: "its usage has more input tokens than bytes were sent",
    Doubt.OUTPUT: "its usage has more output tokens than bytes came back",
    Doubt.FEW: "its usage has far less output than came back",
    Doubt.MANY: "its usage has far more output than came back",
}


def doubt(
    *,
    prompt: int,
    completion: int,
    reasoning: int,
    sent_bytes: int,
    messages: int,
    pieces: int,
    estimated: bool,
    answer_bytes: int,
) -> Doubt | None:
    """What is wrong with a count of `prompt` and `completion` tokens, `reasoning` of them thoughts; None where it may be true.

    `pieces` is the output of a stream as it was counted here, thoughts that were shown included: by its deltas, or `estimated` from
    its text. `answer_bytes` is how long the answer was at most. 0 where it is not known.
    """
    if prompt > sent_bytes + _MESSAGE * messages + _TEMPLATE:
        return Doubt.INPUT
    if answer_bytes and completion - reasoning > answer_bytes:
        return Doubt.OUTPUT
    if pieces > FEW and (2 * completion < pieces if estimated else 5 * completion < 4 * pieces):
        return Doubt.FEW
    return None


def far_more(told: int, seen: float) -> bool:
    """Whether so many tokens are told that `seen` of them leave more than a fifth unexplained."""
    return told > FEW and 5 * told > 6 * seen + 5 * _UNSEEN


def many(told: int, pieces: Sequence[str], *, share: float, local: bool) -> bool:
    """Whether `told` tokens, thoughts aside, are far more than an answer's text can be, of which `pieces` are a share."""
    if not far_more(told, 0.9 * least_tokens("".join(pieces).encode()) / share):
        return False
    return far_more(told, most_tokens(pieces, fine=_SMALL if local else 1.0) / share)
