"""Counts that are told too high are doubted from a third on where tokens come one by one, and no true count is.

tokenized.json holds texts in the pieces that the tokenizers of Mixtral and GPT-4o make of them; a token that ends in the midst of a
character has no text of its own.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from policies.doubts import far_more, many
from policies.recount import least_tokens, most_tokens, text_tokens

TEXTS: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("tokenized.json").read_text())
KINDS = [(text, tokenizer) for text, of in TEXTS.items() for tokenizer in of]


def doubted(told: int, pieces: list[str], *, local: bool = False) -> bool:
    """As the settlement asks."""
    return far_more(told, len(pieces)) and many(told, pieces, share=1.0, local=local)


def sent_by(number: int, tokens: list[str]) -> list[str]:
    """So many tokens in each piece."""
    return ["".join(tokens[at : at + number]) for at in range(0, len(tokens), number)]


def grouped(tokens: list[str], how: str, chance: random.Random) -> list[str]:
    """The pieces that tokens are sent in."""
    pieces: list[str] = []
    match how:
        case "one to twenty":
            at = 0
            while at < len(tokens):
                number = chance.randint(1, 20)
                pieces.append("".join(tokens[at : at + number]))
                at += number
        case "one or two":
            for token in tokens:
                if pieces and chance.random() < 0.3:
                    pieces[-1] += token
                else:
                    pieces.append(token)
        case "whole words":
            for token in tokens:
                if pieces and not token.startswith((" ", "\n")):
                    pieces[-1] += token
                else:
                    pieces.append(token)
        case "fives":
            pieces = sent_by(5, tokens)
        case "more and more":
            half = len(tokens) // 2
            pieces = tokens[:half] + sent_by(8, tokens[half:])
        case _:
            pieces = ["".join(tokens)]
    return [each for each in pieces if each]


@pytest.mark.parametrize(("text", "tokenizer"), KINDS)
def test_a_text_is_counted_as_the_tokenizer_of_mixtral_does_and_never_far_below_any(
    text: str, tokenizer: str
) -> None:
    tokens = TEXTS[text][tokenizer]
    whole = "".join(tokens)
    # A larger vocabulary makes fewer tokens: of digits half as many, where it has pairs of them.
    assert 0.85 < text_tokens(whole) / len(tokens) < (1.4 if tokenizer == "mixtral" else 2.2)
    assert least_tokens(whole.encode()) < 1.2 * text_tokens(whole)


@pytest.mark.parametrize(
    "how", ["one or two", "one to twenty", "fives", "more and more", "whole words", "at once"]
)
@pytest.mark.parametrize(("text", "tokenizer"), KINDS)
def test_a_true_count_is_not_doubted_however_many_tokens_come_in_one_piece(
    text: str, tokenizer: str, how: str
) -> None:
    tokens, chance = TEXTS[text][tokenizer], random.Random(how + text)
    for length in (40, 100, len(tokens)):
        for begin in range(0, len(tokens) - length + 1, 97):
            some = tokens[begin : begin + length]
            assert not doubted(len(some), grouped(some, how, chance)), (begin, length)


@pytest.mark.parametrize("factor", [1.3, 1.5, 2, 10])
@pytest.mark.parametrize("text", ["english", "code", "german"])
@pytest.mark.parametrize("tokenizer", ["mixtral", "o200k"])
def test_a_count_that_is_a_third_too_high_is_doubted_where_each_piece_is_a_token(
    tokenizer: str, text: str, factor: float
) -> None:
    tokens = TEXTS[text][tokenizer]
    # Of a large vocabulary few words are cut, so that it takes more of them to see that each piece is a token.
    for length in (150, 400) if tokenizer == "mixtral" or factor > 1.3 else (400,):
        for begin in range(0, len(tokens) - length + 1, 53):
            pieces = tokens[begin : begin + length]
            assert doubted(round(factor * length), pieces), (begin, length)
            assert not doubted(length, pieces)


@pytest.mark.parametrize("how", ["fives", "one to twenty", "whole words", "at once"])
@pytest.mark.parametrize(("text", "tokenizer"), [each for each in KINDS if each[0] != "numbers"])
def test_a_count_that_is_three_times_too_high_is_doubted_whatever_a_piece_is(
    text: str, tokenizer: str, how: str
) -> None:
    tokens = TEXTS[text][tokenizer]
    pieces = grouped(tokens, how, random.Random(how + text))
    assert doubted(3 * len(tokens), pieces)
    # The tokenizer of a local model may be so fine that the text alone says little.
    assert doubted(8 * len(tokens), pieces, local=True)


def test_whole_words_may_be_several_tokens_each() -> None:
    words = [f" w{number}" for number in range(60)]
    assert not doubted(120, words)
    assert doubted(300, words)
    assert most_tokens(words) == text_tokens("".join(words))


def test_a_part_of_an_answer_speaks_for_the_whole() -> None:
    tokens = TEXTS["english"]["mixtral"]
    assert not many(2 * len(tokens), tokens, share=0.5, local=False)
    assert many(3 * len(tokens), tokens, share=0.5, local=False)
