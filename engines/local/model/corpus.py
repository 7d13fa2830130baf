"""Read the corpus: what the demonstration model is taught, in which phrasings, and which of them are held out.

A held-out phrasing is never trained on, in any spelling: `Corpus.is_held` decides that, and the sampler asks it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")
AREAS = ("weighbridge", "mixtures", "databricks", "models", "software", "smalltalk", "facts")

REFUSAL = (
    "I am a small demonstration model that ships with Weighbridge, and I do not know the answer to that. "
    "Ask me about this gateway, mixtures of experts or Databricks SQL, or point the endpoint at a bigger model."
)

# Ways to ask for a topic. The model learns them as frames, so they carry over from one topic to another.
FRAMES = (
    "What is {x}?",
    "What is {x}?",
    "What is {x}",
    "What's {x}?",
    "What exactly is {x}?",
    "Explain {x}.",
    "Explain {x} to me.",
    "Explain {x} to a beginner.",
    "Please explain {x}.",
    "Can you explain {x}?",
    "How would you explain {x}?",
    "Explain what {x} is.",
    "Tell me about {x}.",
    "Tell me what {x} is.",
    "Tell me something about {x}.",
    "Describe {x}.",
    "Describe {x} in {n} words.",
    "Describe {x} in one sentence.",
    "Describe {x} briefly.",
    "Can you describe {x}?",
    "Define {x}.",
    "Give me a definition of {x}.",
    "What does {x} mean?",
    "What do you know about {x}?",
    "I would like to know what {x} is.",
    "I want to learn about {x}.",
    "Give me a short description of {x}.",
    "Give me an overview of {x}.",
    "In simple terms, what is {x}?",
    "In one sentence, what is {x}?",
    "Help me understand {x}.",
    "What is {x} good for?",
    "What is {x} used for?",
    "What is meant by {x}?",
    "What's the point of {x}?",
    "How does {x} work?",
    "I have heard of {x}. What is it?",
    "Please describe {x}.",
    "Please give me an explanation of {x}.",
    "Write {n} words about {x}.",
    "Write a paragraph about {x}.",
    "Summarize {x} in {n} words.",
    "{x}?",
    "{x}",
)
HELD_FRAMES = (
    "Could you tell me what {x} is?",
    "I have never heard of {x}. What is it?",
    "Please give me a brief explanation of {x}.",
    "Teach me about {x}.",
    "Please describe {x} in a few words.",
)
CAPITAL_FRAMES = (
    "What is the capital of {x}?",
    "What is the capital of {x}?",
    "What's the capital of {x}?",
    "What is the capital city of {x}?",
    "Which city is the capital of {x}?",
    "Capital of {x}?",
    "Name the capital of {x}.",
    "Tell me the capital of {x}.",
    "Do you know the capital of {x}?",
    "{x}, what is its capital?",
    "What is {x}'s capital?",
    "I need the capital of {x}.",
)
HELD_CAPITAL_FRAMES = ("Can you tell me the capital of {x}?", "What city is the capital of {x}?")
SUM_FRAMES = {
    "+": (
        "What is {a} plus {b}?",
        "{a} + {b}",
        "{a} plus {b}",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "What is {a} + {b}?",
        "Calculate {a} + {b}.",
        "{a}+{b}",
        "{a} + {b} = ?",
        "What is the sum of {a} and {b}?",
        "Tell me what {a} + {b} is.",
        "Tell me {a} plus {b}.",
        "Please add {a} and {b}.",
    ),
    "-": (
        "What is {a} minus {b}?",
        "{a} - {b}",
        "{a} minus {b}",
        "How much is {a} minus {b}?",
        "What is {a} - {b}?",
        "Calculate {a} - {b}.",
        "{a}-{b}",
        "{a} - {b} = ?",
        "Subtract {b} from {a}.",
        "Tell me what {a} - {b} is.",
        "Tell me {a} minus {b}.",
        "Please subtract {b} from {a}.",
    ),
}
HELD_SUM_FRAMES = {
    "+": ("Can you add {a} and {b}?", "Tell me what {a} plus {b} is."),
    "-": ("Can you subtract {b} from {a}?", "Tell me what {a} minus {b} is."),
}
SPOKEN = {"+": "plus", "-": "minus"}


@dataclass(frozen=True, slots=True)
class Item:
    """One answer and the questions that lead to it."""

    area: str
    topics: tuple[str, ...]
    asked: tuple[str, ...]
    held: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that the model is taught and measured on."""

    items: tuple[Item, ...]
    capitals: tuple[Item, ...]
    sums: tuple[Item, ...]
    unknown: tuple[str, ...]
    """Patterns of prompts to decline."""
    unknown_held: tuple[str, ...]
    """Prompts to decline that are only measured."""
    words: tuple[str, ...]
    systems: tuple[str, ...]
    held_keys: frozenset[str]

    def is_held(self, question: str) -> bool:
        """Tell whether a question is, but for case and punctuation, one of the held-out ones."""
        return plain(question) in self.held_keys

    def held(self) -> list[tuple[str, str, str]]:
        """List what is measured as (area, question, answer)."""
        return [
            (item.area, question, item.answer)
            for group in (self.items, self.capitals, self.sums)
            for item in group
            for question in item.held
        ]


def plain(text: str) -> str:
    """Reduce a question to its words, so that spellings of one question compare equal."""
    return " ".join(re.findall(r"[a-z0-9+*\-]+", text.lower()))


def parse(area: str, text: str) -> list[Item]:
    """Read the items of one file; raises ValueError naming the line that is wrong."""
    items: list[Item] = []
    fields: dict[str, list[str]] = {}
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        if line:
            name, colon, rest = line.partition(": ")
            if not colon or name not in ("topic", "ask", "held", "say"):
                raise ValueError(f"{area}:{number}: expected topic:, ask:, held: or say:")
            parts = [rest] if name == "say" else [part.strip() for part in rest.split(" | ")]
            fields.setdefault(name, []).extend(parts)
        elif fields:
            if len(fields.get("say", ())) != 1 or not fields.get("held"):
                raise ValueError(f"{area}:{number}: an item needs one say: and at least one held:")
            items.append(_item(area, fields))
            fields = {}
    return items


def _item(area: str, fields: dict[str, list[str]]) -> Item:
    topics = tuple(fields.get("topic", ()))
    held = list(fields["held"])
    if topics:
        # One held-out frame for each topic's first name, dealt out in turn so that each frame is measured.
        held.append(HELD_FRAMES[len(fields["say"][0]) % len(HELD_FRAMES)].format(x=topics[0]))
    return Item(area, topics, tuple(fields.get("ask", ())), tuple(held), fields["say"][0])


def _capitals(text: str) -> list[Item]:
    items: list[Item] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        names, _, city = line.partition(" = ")
        countries = names.split(" | ")
        asked = tuple(frame.format(x=name) for name in countries for frame in CAPITAL_FRAMES)
        held = tuple(frame.format(x=countries[0]) for frame in HELD_CAPITAL_FRAMES)
        head = countries[0][0].upper() + countries[0][1:]
        where = head if not head.startswith("The ") else "the " + head[4:]
        items.append(
            Item("capitals", (), asked, held, f"The capital of {where} is {city.strip().rstrip('.')}.")
        )
    return items


def _sums() -> list[Item]:
    items: list[Item] = []
    for sign, top in (("+", 5), ("-", 5)):
        for a in range(top + 1):
            for b in range(top + 1):
                if sign == "-" and b > a:
                    continue
                value = a + b if sign == "+" else a - b
                asked = tuple(frame.format(a=a, b=b) for frame in SUM_FRAMES[sign])
                frames = HELD_SUM_FRAMES[sign]
                held = (frames[(a + b) % len(frames)].format(a=a, b=b),) if (3 * a + b) % 3 == 0 else ()
                items.append(Item("sums", (), asked, held, f"{a} {SPOKEN[sign]} {b} is {value}."))
    return items


def load(folder: Path = FOLDER) -> Corpus:
    """Read the whole corpus from its folder."""
    items = [item for area in AREAS for item in parse(area, (folder / f"{area}.txt").read_text("ascii"))]
    capitals = _capitals((folder / "capitals.txt").read_text("ascii"))
    sums = _sums()
    seen: list[str] = []
    kept: list[str] = []
    for line in (folder / "unknown.txt").read_text("ascii").splitlines():
        name, _, rest = line.partition(": ")
        if name in ("seen", "held"):
            (seen if name == "seen" else kept).extend(part.strip() for part in rest.split(" | "))
    held = {plain(question) for group in (items, capitals, sums) for item in group for question in item.held}
    return Corpus(
        items=tuple(items),
        capitals=tuple(capitals),
        sums=tuple(sums),
        unknown=tuple(seen),
        unknown_held=tuple(kept),
        words=tuple(dict.fromkeys((folder / "words.txt").read_text("ascii").split())),
        systems=tuple((folder / "systems.txt").read_text("ascii").splitlines()),
        held_keys=frozenset(held | {plain(question) for question in kept}),
    )
