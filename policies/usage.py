"""Tokens that a request used, in disjoint classes, and what they cost in integer nano-dollars."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from policies.catalog import Price

MILLION = 1_000_000


class UsageSource(StrEnum):
    """Where the counts come from."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"
    NONE = "none"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Disjoint classes of tokens: their sum is what was processed, nothing is counted twice."""

    fresh_input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    source: UsageSource = UsageSource.NONE

    @property
    def prompt_tokens(self) -> int:
        """All of the input, whatever its price."""
        return self.fresh_input + self.cache_read + self.cache_write

    @property
    def completion_tokens(self) -> int:
        """All of the output, reasoning included."""
        return self.output + self.reasoning

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.prompt_tokens + self.completion_tokens


def inclusive(
    prompt: int,
    completion: int,
    *,
    cache_read: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
    source: UsageSource = UsageSource.REPORTED,
) -> Usage:
    """Counts of those who include cached tokens in the prompt and reasoning in the completion: OpenAI, vLLM, Azure."""
    fresh, output = prompt - cache_read - cache_write, completion - reasoning
    return Usage(
        fresh if fresh > 0 else 0,
        cache_read,
        cache_write,
        output if output > 0 else 0,
        reasoning,
        source,
    )


def exclusive(
    fresh: int,
    completion: int,
    *,
    cache_read: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
    source: UsageSource = UsageSource.REPORTED,
) -> Usage:
    """Counts of those who tell cached tokens beside the input, reasoning still in the output: Anthropic, Bedrock."""
    return inclusive(
        fresh + cache_read + cache_write,
        completion,
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=reasoning,
        source=source,
    )


def apart(
    prompt: int,
    answer: int,
    *,
    cache_read: int = 0,
    thoughts: int = 0,
    source: UsageSource = UsageSource.REPORTED,
) -> Usage:
    """Counts of those who include cached tokens in the prompt, and tell thoughts beside the answer: Gemini."""
    return inclusive(prompt, answer + thoughts, cache_read=cache_read, reasoning=thoughts, source=source)


def cost_nano_usd(usage: Usage, price: Price, engine_us: int = 0) -> int:
    """Cost of one request: every class at its price and the engine's time, rounded up once, plus the request's price.

    `engine_us` is how long it occupied the engine, in microseconds: a millionth of a second at a price a second is, as
    a token at a price a million, a millionth of a nano-dollar's unit.
    """
    micro = (
        usage.fresh_input * price.input
        + usage.cache_read * price.cache_read
        + usage.cache_write * price.cache_write
        + usage.output * price.output
        + usage.reasoning * price.reasoning
        + engine_us * price.per_gpu_second
    )
    return -(-micro // MILLION) + price.per_request
