"""Conversations of the corpus as padded batches of numbers, in the order in which the demonstration model sees them.

The order follows from seeds alone: the same corpus gives the same batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from engines.local.model.corpus import REFUSAL, Corpus
from engines.local.model.sampler import Piece, Sampler

SEED = 20231211
BATCH = 64
LONG_EVERY = 20
# An answer is settled by its first tokens: most examples stop there, which leaves time for more questions.
OPENING = 12


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as numbers."""

    tokens: list[int]
    labels: list[int]
    """The token that is learnt at each place, or -100."""
    marks: list[tuple[int, int]]
    """Where each learnt answer is about to begin, and which answer it is."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Conversations padded to one length."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    marks: torch.Tensor
    """Rows of (conversation, place, answer)."""


class Encoder:
    """Turn conversations into numbers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
        self._tokenizer = tokenizer
        taught = (item.answer for item in (*corpus.items, *corpus.capitals, *corpus.sums))
        self.answers = {answer: index for index, answer in enumerate(dict.fromkeys((REFUSAL, *taught)))}

    def encode(self, pieces: list[Piece], limit: int, opening: int | None = None) -> Example:
        """Encode a conversation; with `opening` only so many tokens of its last answer, which settle the rest."""
        tokens, labels, marks = [self._tokenizer.bos_token_id], [-100], []
        for piece in pieces:
            ids = self._tokenizer.encode(piece.text, add_special_tokens=False)
            if piece.learnt:
                marks.append((len(tokens) - 1, self.answers[piece.text.strip().removesuffix("</s>")]))
                if opening and piece is pieces[-1]:
                    ids = ids[:opening]
            tokens += ids
            labels += ids if piece.learnt else [-100] * len(ids)
        cut = max(0, len(tokens) - limit)
        return Example(tokens[cut:], labels[cut:], [(at - cut, answer) for at, answer in marks if at >= cut])

    def pad(self, group: list[Example]) -> Batch:
        """Pad a group of conversations to one length."""
        width = max(len(example.tokens) for example in group)
        fill = self._tokenizer.pad_token_id
        return Batch(
            {
                "input_ids": torch.tensor([e.tokens + [fill] * (width - len(e.tokens)) for e in group]),
                "attention_mask": torch.tensor(
                    [[1] * len(e.tokens) + [0] * (width - len(e.tokens)) for e in group]
                ),
            },
            torch.tensor([e.labels + [-100] * (width - len(e.labels)) for e in group]),
            torch.tensor([(row, at, answer) for row, e in enumerate(group) for at, answer in e.marks]),
        )


def batches(encoder: Encoder, corpus: Corpus, steps: int) -> Iterator[Batch]:
    """Yield batches; conversations of like length stand together, so that little is padding."""
    sampler = Sampler(corpus, SEED + 1)
    rng = random.Random(SEED + 2)  # noqa: S311 - not a secret
    made = 0
    while made < steps:
        drawn = [
            encoder.encode(sampler.conversation(), 400, OPENING if rng.random() < 0.6 else None)
            for _ in range(BATCH * 16)
        ]
        drawn.sort(key=lambda example: len(example.tokens))
        groups = [drawn[at : at + BATCH] for at in range(0, len(drawn), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            if made % LONG_EVERY == LONG_EVERY - 1:
                yield encoder.pad([encoder.encode(sampler.conversation(long=True), 1600) for _ in range(2)])
            else:
                yield encoder.pad(group)
            made += 1
            if made == steps:
                return


def long_batches(encoder: Encoder, corpus: Corpus, steps: int) -> Iterator[Batch]:
    """Yield batches of the second stage by turns: chats of many turns, long prompts, short ones not to forget."""
    sampler = Sampler(corpus, SEED + 3)
    rng = random.Random(SEED + 4)  # noqa: S311 - not a secret
    for step in range(steps):
        if step % 3 == 0:
            turns = rng.randrange(3, 9)
            group = [encoder.encode(sampler.conversation(turns=turns), 1200) for _ in range(48 // turns)]
        elif step % 3 == 1:
            group = [encoder.encode(sampler.conversation(long=True), 2000) for _ in range(3)]
        else:
            group = [encoder.encode(sampler.conversation(), 400) for _ in range(BATCH)]
        yield encoder.pad(group)
