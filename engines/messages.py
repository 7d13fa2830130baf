"""The parts of OpenAI's answers that the gateway reads; everything else passes through as bytes."""

from __future__ import annotations

import msgspec


class PromptDetails(msgspec.Struct, gc=False):
    """Where the prompt's tokens came from, and where they went."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """What the completion's tokens were."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """OpenAI's `usage`: inclusive counts, the details are parts of them; and DeepSeek's word for what was cached."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None

    @property
    def is_told(self) -> bool:
        """Whether both sides are: half of a usage is none."""
        return self.prompt_tokens is not None and self.completion_tokens is not None


class Delta(msgspec.Struct, gc=False):
    """What a stream's event adds to a message; its content is a text, or comes in parts."""

    content: str | list[msgspec.Raw] | None = None
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
    cache_write: int = 0
    exact: bool = True
    """False where the output was counted here, and only the input upstream."""


ABSURD = 50_000_000
"""More tokens than any context can hold: such a count is refused."""


def believed(usage: WireUsage | None) -> Count | None:
    """The usage as counts, or None where it is missing, negative, absurd or contradicts itself."""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    cached = written = reasoning = 0
    details = usage.prompt_tokens_details
    if details is not None:
        cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    if not cached and usage.prompt_cache_hit_tokens is not None:
        cached = usage.prompt_cache_hit_tokens
    if usage.completion_tokens_details is not None:
        reasoning = usage.completion_tokens_details.reasoning_tokens or 0
        if reasoning and usage.total_tokens == prompt + completion + reasoning:
            # xAI tells its thoughts beside the completion; only the sum says so.
            completion += reasoning
    if not (
        cached >= 0 and written >= 0 and cached + written <= prompt <= ABSURD
        and 0 <= reasoning <= completion <= ABSURD
    ):  # fmt: skip
        return None
    return Count(prompt, completion, cached, reasoning, written)


decode_answer = msgspec.json.Decoder(Answer).decode
"""Validate that a body is JSON and read what matters of it; raises msgspec.MsgspecError or UnicodeDecodeError."""
