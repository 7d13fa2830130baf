"""The one form between any client's dialect and any provider's: a request, the events of an answer, and the answer whole.

Only where the two sides speak different dialects; where they speak the same, bytes pass through and none of this is
built. One choice an answer: a client that asks for more is served by a provider of its own dialect only.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import msgspec

# -- what is asked -------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True, gc=False):
    """Words."""

    text: str


class Image(msgspec.Struct, frozen=True, gc=False):
    """A picture: base64 `data` of a `media_type`, or the https `url` of one."""

    media_type: str = ""
    data: str = ""
    url: str = ""


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """What the model thought before it answered; `signature` is the provider's proof, `redacted` its sealed form."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """The model asks for a tool; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str
    signature: str = ""
    """The provider's proof of the thought behind the call, where it wants that back."""


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool gave."""

    call_id: str
    content: tuple[Text | Image, ...]
    is_error: bool = False

    @property
    def words(self) -> str:
        """Its texts as one."""
        return in_one(each.text for each in self.content if isinstance(each, Text))

    @property
    def words_alone(self) -> str:
        """The same for who has no other way to be told that it failed: its first word says so."""
        words = self.words
        if not self.is_error or words[:5].lower() == "error":
            return words
        return f"Error: {words}" if words else "Error"


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """The model declines, in its own words."""

    text: str


Part: TypeAlias = Text | Image | Reasoning | ToolCall | ToolResult | Refusal


class Message(msgspec.Struct, frozen=True):
    """One turn; results of tools are the user's."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


def in_one(texts: Iterable[str]) -> str:
    """Texts that stood apart as one text: they stay apart by an empty line, unless a line's end is there already."""
    whole = ""
    for text in texts:
        apart = whole and text and not whole.endswith("\n") and not text.startswith("\n")
        whole += "\n\n" + text if apart else text
    return whole


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may ask for; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """Whether tools may, must or must not be asked for; `name` is the one that must be."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


class Format(msgspec.Struct, frozen=True):
    """The answer is JSON; of the schema, where there is one."""

    schema: dict[str, Any] | None
    name: str = "answer"
    strict: bool | None = None
    description: str = ""


class Thinking(msgspec.Struct, frozen=True, gc=False):
    """How much to reason: an effort in OpenAI's words (`none` to `max`), or a number of tokens."""

    effort: str | None = None
    budget: int | None = None
    shown: bool = True
    """Whether the client wants to see it."""


class Request(msgspec.Struct, frozen=True):
    """A request to a chat model. `extra` holds what the client sent that has no place here, by its own name."""

    messages: tuple[Message, ...]
    system: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    format: Format | None = None
    thinking: Thinking | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = {}


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """Texts to embed."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    extra: dict[str, Any] = {}


class Embeddings(msgspec.Struct, frozen=True):
    """Vectors, in the order of the texts; `tokens` of the input, None where the provider does not count."""

    vectors: list[list[float]]
    tokens: int | None
    model: str | None = None


# -- what is answered ----------------------------------------------------------------------------


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"
    LENGTH = "length"
    TOOLS = "tools"
    SEQUENCE = "sequence"
    FILTER = "filter"
    REFUSAL = "refusal"
    PAUSE = "pause"

    @property
    def finish_reason(self) -> str:
        """In OpenAI's words, which the ledger keeps."""
        return _FINISH[self]


_FINISH = {
    Stop.END: "stop",
    Stop.LENGTH: "length",
    Stop.TOOLS: "tool_calls",
    Stop.SEQUENCE: "stop",
    Stop.FILTER: "content_filter",
    Stop.REFUSAL: "content_filter",
    Stop.PAUSE: "stop",
}


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens in disjoint classes: their sum is what was processed, nothing is counted twice."""

    fresh: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        """All of the input."""
        return self.fresh + self.cache_read + self.cache_write

    @property
    def completion(self) -> int:
        """All of the output."""
        return self.output + self.reasoning


class Began(msgspec.Struct, frozen=True, gc=False):
    """The answer begins: the provider's id for it and the model that truly answers, where they are told."""

    id: str | None = None
    model: str | None = None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More words."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks, its proof, or a sealed piece whole."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the words in which the model declines."""

    text: str


class ToolCallBegan(msgspec.Struct, frozen=True, gc=False):
    """A call of a tool begins; `index` counts calls from 0, and a begun call is over when the next one begins."""

    index: int
    id: str
    name: str
    signature: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a call's arguments, as JSON text."""

    index: int
    arguments: str


class Counted(msgspec.Struct, frozen=True, gc=False):
    """The provider's count so far; each one stands in for those before."""

    usage: Usage
    input_only: bool = False
    """The output is not counted yet."""
    ahead: bool = False
    """It counts what follows too, up to the next count."""


class Ended(msgspec.Struct, frozen=True, gc=False):
    """Nothing more comes but a count. Every stream that is whole has exactly one."""

    stop: Stop
    sequence: str | None = None
    """The stop sequence that ended it, where that is known."""


Event: TypeAlias = (
    Began | TextDelta | ReasoningDelta | RefusalDelta | ToolCallBegan | ToolCallDelta | Counted | Ended
)


class Answer(msgspec.Struct, frozen=True):
    """An answer whole."""

    parts: tuple[Text | Reasoning | ToolCall | Refusal, ...]
    stop: Stop
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    sequence: str | None = None
