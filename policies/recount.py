"""How many tokens a text may be that came in pieces, whichever tokenizer made it: never far below the truth, nor far above.

Two ways to tell. By the text, as the tokenizers of larger models cut it: words, digits, signs. And by where it was cut into
pieces, which needs no tokenizer: no token goes over from one word into the next, so of all tokens the share that begins a piece is
that of the words' first ones. Where each of these begins a piece, every piece is one token.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from math import sqrt

_parts = re.compile(
    r"([A-Za-z0-9+/=]{32,})"  # a key, a digest: next to nothing in it is a word
    r"|([A-Z]?[a-z]+|[A-Z]+)"
    r"|( ?[0-9]+)"
    r"|(\s*\n\s*|[ \t]{2,}|\t)"
    r"|([!-/:-@\[-`{-~]+)"
    r"|([\u0400-\u052f]+)"  # Cyrillic
    r"|([\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef]+)"  # Chinese and Japanese
    r"|([\u2600-\u27bf\ufe00-\ufe0f\u200d\U00010000-\U0010ffff]+)"  # emoji, and what is rare enough to be spelt in bytes
    r"|([^\x00-\x7f])"
).findall
_words = re.compile(r"(?<=\S) (?=[^\W\d_])")
"""Where a word begins with its space: there every tokenizer ends a token."""
_FOREIGN = "\u0530"
_foreign = re.compile(r"[^\x00-\u052f]+").findall
_LETTERS = string.ascii_letters.encode() + bytes(range(0x80, 0x100))
_FEW = 4
"""So few words that were cut in two do not say that pieces end anywhere: some send whole words."""
_ENOUGH = 24
_LARGE = 0.85
"""Of the tokens of one with 32,000 words, most of those with many more make so many at least."""
_SMALL = 2
"""No provider's tokenizer makes more than so many times of these."""


def text_tokens(text: str) -> float:
    """The tokens of a text, as Mixtral's tokenizer has them; those of larger vocabularies are fewer."""
    tokens = 0.0
    for key, word, number, space, signs, cyrillic, wide, spelt, other in _parts(text):
        if word:
            length = len(word)
            tokens += (
                1 if length < 5 else 1 + 0.18 * (length - 4) if length < 10 else 1.9 + 0.35 * (length - 9)
            )
        elif signs:
            tokens += 0.45 + 0.55 * len(signs)
        elif space:
            tokens += 1 + len(space) // 16
        elif number:
            tokens += len(number)
        elif other:
            tokens += 0.6 * len(other.encode())
        elif wide:
            tokens += 1.45 * len(wide)
        elif cyrillic:
            tokens += max(1.0, len(cyrillic) / 1.75)
        elif spelt:
            tokens += len(spelt.encode())
        else:
            tokens += 0.85 * len(key)
    return tokens


def least_tokens(text: bytes) -> float:
    """The tokens that a text is at least, or nearly: a hundredth of the work of counting them."""
    # Each space is a word's, each sign or digit a token; but those that stand side by side.
    apart = len(text.translate(None, _LETTERS)) - 2 * text.count(b"  ")
    return max(apart, len(text) / 4.8)


def most_tokens(pieces: Sequence[str], *, fine: float = 1.0) -> float:
    """The tokens that pieces of one text, none of them empty, are at most, but for a rare accident.

    `fine`: what the text alone comes to may be so many times more, as of a tokenizer with few words; of few pieces.
    """
    text = "".join(pieces)
    begun = cut = 0
    before = " "
    for piece in pieces:
        first = piece[0]
        if first == " ":
            begun += not before.isspace() and piece[1:2].isalpha()
        elif first.isalpha() and first < _FOREIGN and before.isalpha() and before < _FOREIGN:
            cut += 1
        before = piece[-1]
    tokens = text_tokens(text)
    if cut < _FEW or begun < _FEW:
        # In so many pieces words of several tokens would have been cut, had a piece been any number of tokens.
        return max(len(pieces), tokens if len(pieces) >= _ENOUGH else fine * tokens)
    words, beside = len(_words.findall(text)), len(pieces) - begun
    unsure = 3 * sqrt((1 - begun / words) * (1 / beside + 1 / begun))
    # A character that is several tokens is in one piece all the same.
    foreign = "".join(_foreign(text))
    by_cuts = words * (1 + beside / begun * (1 + unsure)) + max(0.0, text_tokens(foreign) - len(foreign))
    return max(len(pieces), _LARGE * tokens, min(by_cuts, max(_SMALL, fine) * tokens))
