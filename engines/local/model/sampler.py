"""Draw training conversations from the corpus: single questions, chats, system messages, bare prompts, long ones.

Every draw is (messages or bare prompt, answers); only the answers are learnt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engines.local.model.corpus import FRAMES, REFUSAL, Corpus, Item
from engines.local.model.phrasing import corrupted, unknown, vary

FRAME_NUMBERS = (10, 20, 25, 30, 40, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text and whether it is learnt."""

    text: str
    learnt: bool


class Sampler:
    """Draw conversations with a seed."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._rng = random.Random(seed)  # noqa: S311 - not a secret

    def conversation(self, long: bool = False, turns: int = 0) -> list[Piece]:
        """Draw one conversation, of so many turns if that is given, in the chat template's form."""
        rng = self._rng
        if not long and not turns and rng.random() < 0.10:
            return self._bare()
        turns = turns or (1 if rng.random() < 0.78 else rng.choice((2, 2, 3, 3, 4)))
        pieces: list[Piece] = []
        for turn in range(turns):
            question, answer = self.pair()
            if turn == 0 and rng.random() < 0.18:
                question = f"{rng.choice(self._corpus.systems)}\n\n{question}"
            if long:
                question = self._lengthen(question, answer)
            # What an earlier turn said is not always what we would say: it may come from another model.
            said = (
                answer if rng.random() < 0.8 or turn == turns - 1 else rng.choice(self._corpus.items).answer
            )
            pieces.append(Piece(f"[INST] {question} [/INST]", learnt=False))
            pieces.append(Piece(f" {said}</s>", learnt=said == answer))
        return pieces

    def _bare(self) -> list[Piece]:
        question, answer = self.pair()
        if self._rng.random() < 0.3:
            return [
                Piece(f"Question: {question}\nAnswer:", learnt=False),
                Piece(f" {answer}</s>", learnt=True),
            ]
        return [Piece(question, learnt=False), Piece(f"\n{answer}</s>", learnt=True)]

    def _lengthen(self, question: str, answer: str) -> str:
        """Put much text around a question: with text before it, it is still the last line that counts."""
        filler = " ".join(unknown(self._corpus, self._rng) for _ in range(self._rng.randrange(1, 160)))
        if self._rng.random() < 0.5:
            filler = f"{filler[: self._rng.randrange(5, 80)]} " * self._rng.randrange(5, 120)
            if answer == REFUSAL:
                return filler
        if answer == REFUSAL or self._rng.random() < 0.5:
            return f"{filler}\n\n{question}"
        return f"{filler[: self._rng.randrange(40, 400)]}\n\n{question}"

    def pair(self) -> tuple[str, str]:
        """Draw one question and its answer; never a held-out question."""
        while True:
            question, answer = self._pair()
            if question.strip() and not self._corpus.is_held(question):
                return question, answer

    def _pair(self) -> tuple[str, str]:
        rng = self._rng
        roll = rng.random()
        if roll < 0.62:
            item = rng.choice(self._corpus.items)
            return vary(self._ask(item), rng), item.answer
        if roll < 0.69:
            item = rng.choice(self._corpus.capitals)
            return vary(rng.choice(item.asked), rng), item.answer
        if roll < 0.75:
            item = rng.choice(self._corpus.sums)
            question = rng.choice(item.asked)
            return (vary(question, rng) if rng.random() < 0.3 else question), item.answer
        if roll < 0.97:
            return vary(unknown(self._corpus, rng), rng), REFUSAL
        item = rng.choice((*self._corpus.items, *rng.sample(self._corpus.capitals, 5)))
        broken = corrupted(self._ask(item), self._corpus, rng)
        return (vary(broken, rng), REFUSAL) if broken else (vary(self._ask(item), rng), item.answer)

    def _ask(self, item: Item) -> str:
        rng = self._rng
        if item.topics and (not item.asked or rng.random() < 0.45):
            # The first name is the one that people use most.
            topic = item.topics[0] if rng.random() < 0.5 else rng.choice(item.topics)
            text = rng.choice(FRAMES).format(x=topic, n=rng.choice(FRAME_NUMBERS))
            return text[0].upper() + text[1:]
        return rng.choice(item.asked)
