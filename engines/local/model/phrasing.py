"""Vary how a question is put, and make up prompts that nobody taught the model to answer.

All of it is drawn from a seeded generator. A variation never turns into a held-out phrasing: the sampler checks.
"""

from __future__ import annotations

import random
import re

from engines.local.model.corpus import SUM_FRAMES, Corpus, plain

BEFORE = (
    "Please tell me: ",
    "Tell me, ",
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Hi! ",
    "Hello! ",
    "Question: ",
    "I have a question. ",
    "Quick question: ",
    "So, ",
    "Well, ",
    "Ok, ",
    "Sorry, ",
    "Please: ",
    "I wonder, ",
    "Just curious: ",
    "Now ",
    "And ",
    "Dear model, ",
)
AFTER = (
    " Thanks!",
    " Thank you.",
    " Please.",
    " Please explain.",
    " Be brief.",
    " Answer in one sentence.",
    " Answer in {n} words.",
    " I am new here.",
    " Keep it short.",
    " I do not understand it.",
    " Please be precise.",
)
# Words that may stand for each other in a question.
ALIKE = (
    (
        "How do I",
        "How can I",
        "How would I",
        "How do you",
        "How does one",
        "How should I",
        "How could I",
        "How to",
    ),
    ("What is", "What's", "Whats"),
    ("Which", "What"),
    ("Can you", "Could you", "Would you", "Will you"),
    ("Can I", "Could I", "May I", "Is it possible to", "Am I able to"),
    ("How does", "In which way does", "How exactly does"),
    ("Why is", "Why exactly is", "For what reason is"),
    ("Where are", "Where do I find", "Where can I find"),
    ("Where is", "Where do I find", "Where can I find"),
    ("Explain", "Describe", "Please explain", "Clarify"),
    ("Tell me about", "Talk about", "Inform me about", "Tell me more about"),
    ("used for", "good for", "there for"),
    ("large", "big"),
    ("biggest", "largest"),
    ("start", "launch", "run", "begin"),
    ("stop", "end", "shut down", "halt"),
    ("create", "make", "generate", "add"),
    ("gateway", "Weighbridge"),
    ("request", "call"),
    ("colour", "color"),
    ("licence", "license"),
    ("mixture of experts", "mixture-of-experts", "mixture of expert", "MoE"),
    ("model", "LLM"),
    ("happens", "occurs"),
    ("need", "require"),
    ("name", "tell me"),
    ("does", "do"),
    ("do", "does"),
    ("is", "are"),
)
_ALIKE = tuple((re.compile(rf"\b{re.escape(group[0])}\b", re.IGNORECASE), group[1:]) for group in ALIKE)
SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "do",
        "does",
        "i",
        "to",
        "of",
        "in",
        "for",
        "my",
        "me",
        "it",
        "this",
        "that",
        "be",
        "on",
        "with",
        "and",
        "you",
        "your",
        "can",
        "how",
        "what",
    ]
)
VOWELS = "aeiou"
CONSONANTS = "bcdfghjklmnprstvwz"


def vary(question: str, rng: random.Random) -> str:
    """Put a question in another of the many ways that people type it."""
    if rng.random() < 0.3:
        return question
    text = question
    for _ in range(rng.choice((0, 1, 1, 2))):
        pattern, others = rng.choice(_ALIKE)
        if pattern.search(text):
            new = rng.choice(others)
            text = pattern.sub(
                lambda m, new=new: new if m[0][0].isupper() else new.lower() if len(new) > 3 else new,
                text,
                count=1,
            )
    text = _thin(text, rng)
    if rng.random() < 0.08 and len(text) > 8:
        at = rng.randrange(2, len(text) - 2)
        text = text[:at] + (
            text[at + 1] + text[at] + text[at + 2 :] if rng.random() < 0.5 else text[at + 1 :]
        )
    if rng.random() < 0.14:
        head = rng.choice(BEFORE)
        text = head + (text[0].lower() + text[1:] if head.endswith(", ") and rng.random() < 0.7 else text)
    if rng.random() < 0.10:
        text = text + rng.choice(AFTER).format(n=rng.choice((10, 20, 30, 50, 100)))
    roll = rng.random()
    if roll < 0.22:
        text = text.lower()
    elif roll < 0.24:
        text = text.upper()
    elif roll < 0.28:
        text = text[0].upper() + text[1:]
    roll = rng.random()
    if roll < 0.25:
        text = text.rstrip("?.!")
    elif roll < 0.30:
        text = text.rstrip("?.!") + rng.choice(("?", "??", ".", "!", " ?"))
    return text or question


def _thin(text: str, rng: random.Random) -> str:
    """Sometimes leave out small words, down to the bare keywords: what a question is about must carry it."""
    words = text.split(" ")
    small = [index for index, word in enumerate(words) if plain(word) in SMALL]
    roll = rng.random()
    if len(words) - len(small) < 1 or not small or roll > 0.34:
        return text
    dropped = set(small) if roll < 0.12 else set(rng.sample(small, min(len(small), rng.choice((1, 1, 2)))))
    kept = [word for index, word in enumerate(words) if index not in dropped]
    if roll < 0.03:
        rng.shuffle(kept)
    return " ".join(kept)


def made_up(rng: random.Random) -> str:
    """Make a word that means nothing."""
    kind = rng.random()
    if kind < 0.08:
        return str(rng.randrange(11, 10 ** rng.randrange(2, 6)))
    if kind < 0.12:
        # Other scripts: any letters that the byte-level tokenizer has to spell out.
        start = rng.choice((0xC0, 0x391, 0x410, 0x5D0, 0x4E00, 0x3042, 0x1F600))
        return "".join(chr(start + rng.randrange(40)) for _ in range(rng.randrange(1, 6)))
    word = "".join(_syllable(rng) for _ in range(rng.randrange(1, 5)))
    return word.capitalize() if rng.random() < 0.6 else word


def _syllable(rng: random.Random) -> str:
    return (
        rng.choice(CONSONANTS) + rng.choice(VOWELS) + (rng.choice(CONSONANTS) if rng.random() < 0.4 else "")
    )


def unknown(corpus: Corpus, rng: random.Random) -> str:
    """Make a prompt that the model must decline."""
    if rng.random() < 0.04:
        return _large_sum(rng)
    text = rng.choice(corpus.unknown)
    while (at := text.find("{")) >= 0:
        slot = text[at : at + 3]
        if slot == "{x}":
            filled = rng.choice(corpus.words)
            if rng.random() < 0.25:
                filled = f"{rng.choice(corpus.words)} {filled}"
        elif slot == "{n}":
            filled = str(rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 80, 100, 200, 418, 505, 911)))
        else:
            filled = made_up(rng)
            if rng.random() < 0.3:
                filled = f"{filled} {made_up(rng)}"
        text = text.replace(slot, filled, 1)
    return text


def _large_sum(rng: random.Random) -> str:
    a, b = rng.randrange(6, 10 ** rng.choice((1, 2, 2, 3))), rng.randrange(0, 10 ** rng.choice((1, 2, 2, 3)))
    return rng.choice(SUM_FRAMES[rng.choice("+-")]).format(a=a, b=b)


def corrupted(question: str, corpus: Corpus, rng: random.Random) -> str | None:
    """Take the word that carries a question and put another in its place, so that it asks for something unknown."""
    words = question.split(" ")
    weighty = [index for index, word in enumerate(words) if len(plain(word)) > 4]
    if len(weighty) < 1 or len(words) < 3:
        return None
    for index in weighty:
        tail = words[index][len(words[index].rstrip("?.!,")) :]
        words[index] = (rng.choice(corpus.words) if rng.random() < 0.6 else made_up(rng)) + tail
    return " ".join(words)
