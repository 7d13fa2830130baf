"""The parts of OpenAI's answers that the gateway reads; everything else passes through as bytes."""

from __future__ import annotations

import msgspec


class PromptDetails(msgspec.Struct, gc=False):
    """Where the prompt's tokens came from."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """What the completion's tokens were."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """OpenAI's `usage`: inclusive counts, the details are parts of them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Delta(msgspec.Struct, gc=False):
    """What a stream's event adds to a message."""

    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice: its end, and whether it carries content."""

    index: int = 0
    finish_reason: str | None = None
    delta: Delta | None = None
    text: str | None = None

    def has_content(self) -> bool:
        """Whether this event carries at least a token."""
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.tool_calls or delta.reasoning_content)


NO_ERROR = msgspec.Raw()
"""What `error` is where it is absent: the very object, so that most answers need no look at it."""


class Answer(msgspec.Struct, gc=False):
    """A whole answer, or one event of a stream."""

    choices: list[Choice] = []
    usage: WireUsage | None = None
    model: str | None = None
    error: msgspec.Raw = NO_ERROR

    @property
    def failed(self) -> bool:
        """Whether the upstream reports an error in place of an answer."""
        error = bytes(self.error)
        return error not in (b"", b"null")


class Count(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the upstream counts them so far."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


ABSURD = 50_000_000
"""More tokens than any context can hold: such a count is refused."""


def believed(usage: WireUsage | None) -> Count | None:
    """The usage as counts, or None where it is missing, negative, absurd or contradicts itself."""
    if usage is None or usage.prompt_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens or 0
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    reasoning = (usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens) or 0
    if not (0 <= cached <= prompt <= ABSURD and 0 <= reasoning <= completion <= ABSURD):
        return None
    return Count(prompt, completion, cached, reasoning)


_decode_answer = msgspec.json.Decoder(Answer).decode


def decode_answer(body: bytes) -> Answer:
    """Validate that `body` is JSON and read what matters of it; raises msgspec.MsgspecError or UnicodeDecodeError."""
    return _decode_answer(body)
