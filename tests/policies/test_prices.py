"""What a request costs, to the nano-dollar, for every class of tokens and every way in which providers count them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.messages import WireUsage, believed
from gateway.telemetry import Telemetry
from policies.budgets import ENGINE_US_AHEAD, ENGINE_US_PER_TOKEN, dearest
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity
from policies.usage import Usage, apart, cost_nano_usd, exclusive, inclusive

M = 1_000_000_000
# Dollars per million tokens: input 3, cache read 0.30, cache write 3.75, output 15, reasoning 60; a cent a request.
SONNET = Price("p", 3 * M, 300_000_000, 3_750_000_000, 15 * M, 60 * M, 10_000_000)
NO_FEE = Price("q", 3 * M, 300_000_000, 3_750_000_000, 15 * M, 60 * M)
# An H100 at 2.50 dollars an hour, and nothing for tokens.
BY_TIME = Price("g", per_gpu_second=694_444)


@pytest.mark.parametrize(
    ("usage", "price", "cost"),
    [
        # Each class by itself: a million tokens cost what the list says, one token a millionth of it.
        (Usage(fresh_input=1_000_000), NO_FEE, 3 * M),
        (Usage(cache_read=1_000_000), NO_FEE, 300_000_000),
        (Usage(cache_write=1_000_000), NO_FEE, 3_750_000_000),
        (Usage(output=1_000_000), NO_FEE, 15 * M),
        (Usage(reasoning=1_000_000), NO_FEE, 60 * M),
        (Usage(fresh_input=1), NO_FEE, 3_000),
        (Usage(cache_read=1), NO_FEE, 300),
        # All of them, and the request's own price once.
        (Usage(1000, 2000, 300, 400, 50), SONNET, 3_000_000 + 600_000 + 1_125_000 + 6_000_000 + 3_000_000 + 10_000_000),
        (Usage(), SONNET, 10_000_000),
        # A fraction of a nano-dollar is rounded up once, not class by class.
        (Usage(fresh_input=1, output=1), Price("r", input=1, output=1), 1),
        (Usage(fresh_input=600_000, output=600_000), Price("r", input=1, output=1), 2),
        # Nothing priced costs nothing.
        (Usage(1, 1, 1, 1, 1), Price(""), 0),
        # No float could hold this: the last nano-dollar is right.
        (Usage(fresh_input=9_007_199_254_741), Price("r", input=1_000_001), 9_007_208_261_941),
    ],
)  # fmt: skip
def test_the_golden_costs(usage: Usage, price: Price, cost: int) -> None:
    assert cost_nano_usd(usage, price) == cost


SAME = Usage(fresh_input=100, cache_read=1000, cache_write=200, output=40, reasoning=10)


@pytest.mark.parametrize(
    ("convention", "usage", "expected"),
    [
        (
            "OpenAI: cached within the prompt, reasoning within the completion",
            inclusive(1100, 50, cache_read=1000, reasoning=10),
            Usage(fresh_input=100, cache_read=1000, output=40, reasoning=10),
        ),
        (
            "OpenAI-like with cache writes within the prompt",
            inclusive(1300, 50, cache_read=1000, cache_write=200, reasoning=10),
            SAME,
        ),
        (
            "Anthropic, Bedrock: cached beside the input",
            exclusive(100, 50, cache_read=1000, cache_write=200, reasoning=10),
            SAME,
        ),
        (
            "Gemini: cached within the prompt, thoughts beside the answer",
            apart(1100, 40, cache_read=1000, thoughts=10),
            Usage(fresh_input=100, cache_read=1000, output=40, reasoning=10),
        ),
        ("all of the prompt cached", inclusive(1000, 0, cache_read=1000), Usage(cache_read=1000)),
        ("only reasoning", inclusive(0, 7, reasoning=7), Usage(reasoning=7)),
        ("an upstream that contradicts itself", inclusive(5, 1, cache_read=9, reasoning=3), Usage(0, 9, 0, 0, 3)),
    ],
)  # fmt: skip
def test_every_convention_comes_out_in_disjoint_classes(
    convention: str, usage: Usage, expected: Usage
) -> None:
    for name in ("fresh_input", "cache_read", "cache_write", "output", "reasoning"):
        assert getattr(usage, name) == getattr(expected, name), f"{convention}: {name}"


@pytest.mark.parametrize(
    ("usage", "price", "engine_us", "cost"),
    [
        # One second, one microsecond, an hour.
        (Usage(), BY_TIME, 1_000_000, 694_444),
        (Usage(), BY_TIME, 1, 1),
        (Usage(), BY_TIME, 3_600_000_000, 2_499_998_400),
        # Beside tokens and a fee: 1.5 s, 10 input and 20 output tokens, one request.
        (
            Usage(fresh_input=10, output=20),
            Price("m", input=3 * M, output=15 * M, per_request=7, per_gpu_second=694_444),
            1_500_000,
            30_000 + 300_000 + 7 + 1_041_666,
        ),
        # Half a nano-dollar of tokens and half of time are one, not two.
        (Usage(output=1), Price("h", output=500_000, per_gpu_second=500_000), 1, 1),
        # Time that has no price costs nothing.
        (Usage(fresh_input=1), NO_FEE, 10**9, 3_000),
    ],
)  # fmt: skip
def test_the_golden_costs_of_the_engines_time(usage: Usage, price: Price, engine_us: int, cost: int) -> None:
    assert cost_nano_usd(usage, price, engine_us) == cost


@pytest.mark.parametrize(
    ("provider", "told", "usage", "cost"),
    [
        (
            "OpenAI",
            "prompt_tokens 2006, cached 1920 within them; completion_tokens 300, reasoning 256 within them",
            inclusive(2006, 300, cache_read=1920, reasoning=256),
            86 * 3_000 + 1920 * 300 + 44 * 15_000 + 256 * 60_000,
        ),
        (
            "Anthropic",
            "input_tokens 21, cache_read_input_tokens 188086, cache_creation_input_tokens 456; output_tokens 393",
            exclusive(21, 393, cache_read=188_086, cache_write=456),
            21 * 3_000 + 188_086 * 300 + 456 * 3_750 + 393 * 15_000,
        ),
        (
            "Gemini",
            "promptTokenCount 1500, cachedContentTokenCount 1000 within it; candidates 40, thoughts 600 beside them",
            apart(1500, 40, cache_read=1000, thoughts=600),
            500 * 3_000 + 1000 * 300 + 40 * 15_000 + 600 * 60_000,
        ),
        (
            "Bedrock",
            "inputTokens 12, cacheReadInputTokens 2048, cacheWriteInputTokens 1024; outputTokens 77",
            exclusive(12, 77, cache_read=2048, cache_write=1024),
            12 * 3_000 + 2048 * 300 + 1024 * 3_750 + 77 * 15_000,
        ),
        (
            "DeepSeek",
            "prompt_tokens 500 = prompt_cache_hit_tokens 384 + prompt_cache_miss_tokens 116; completion 90, reasoning 64",
            inclusive(384 + 116, 90, cache_read=384, reasoning=64),
            116 * 3_000 + 384 * 300 + 26 * 15_000 + 64 * 60_000,
        ),
    ],
)  # fmt: skip
def test_the_golden_cost_of_each_providers_own_counts(
    provider: str, told: str, usage: Usage, cost: int
) -> None:
    assert cost_nano_usd(usage, NO_FEE) == cost, f"{provider}: {told}"


def test_a_fully_cached_prompt_costs_a_tenth_and_not_eleven_tenths() -> None:
    assert cost_nano_usd(inclusive(1_000_000, 0, cache_read=1_000_000), NO_FEE) == 300_000_000
    assert cost_nano_usd(exclusive(0, 0, cache_read=1_000_000), NO_FEE) == 300_000_000


def test_what_the_engine_reports_on_the_wire_is_read_as_inclusive() -> None:
    import msgspec

    told = b'{"prompt_tokens": 110, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 100},'
    told += b' "completion_tokens_details": {"reasoning_tokens": 10}}'
    count = believed(msgspec.json.decode(told, type=WireUsage))
    assert count is not None
    usage = inclusive(count.prompt, count.completion, cache_read=count.cached, reasoning=count.reasoning)
    assert cost_nano_usd(usage, NO_FEE) == 10 * 3_000 + 100 * 300 + 40 * 15_000 + 10 * 60_000


tokens = st.integers(0, 50_000_000)
amounts = st.integers(0, 10**12)


@given(
    st.tuples(tokens, tokens, tokens, tokens, tokens),
    st.tuples(amounts, amounts, amounts, amounts, amounts),
    amounts,
)
def test_what_is_reserved_at_the_dearest_price_covers_every_split_of_the_same_tokens(
    counts: tuple[int, int, int, int, int], rates: tuple[int, int, int, int, int], fee: int
) -> None:
    usage, price = Usage(*counts), Price("p", *rates, per_request=fee)
    entity = ServedEntity("e", "e", EntityKind.LOCAL, "vllm", "m", price)
    most = dearest(Endpoint("ep", "ep", "llm/v1/chat", (entity,)))
    reserved = most.fixed(usage.prompt_tokens) + most.output_per_token * usage.completion_tokens
    assert cost_nano_usd(usage, price) <= reserved


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 10**9))
def test_what_is_reserved_covers_an_engine_of_twenty_tokens_a_second(
    prompt: int, completion: int, rate: int
) -> None:
    price = Price("g", input=5, output=7, per_gpu_second=rate)
    entity = ServedEntity("e", "e", EntityKind.LOCAL, "vllm", "m", price)
    most = dearest(Endpoint("ep", "ep", "llm/v1/chat", (entity,)))
    took_us = ENGINE_US_AHEAD + completion * ENGINE_US_PER_TOKEN
    reserved = most.fixed(prompt) + most.output_per_token * completion
    assert cost_nano_usd(Usage(fresh_input=prompt, output=completion), price, took_us) <= reserved


@given(st.tuples(tokens, tokens, tokens, tokens, tokens))
def test_tokens_are_neither_lost_nor_counted_twice(counts: tuple[int, int, int, int, int]) -> None:
    fresh, read, write, output, reasoning = counts
    usage = exclusive(fresh, output + reasoning, cache_read=read, cache_write=write, reasoning=reasoning)
    assert (usage.fresh_input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning) == counts
    assert usage.total_tokens == sum(counts)


@pytest.mark.parametrize(
    ("price", "cost", "usage", "alarms"),
    [
        (NO_FEE, 0, Usage(fresh_input=1), 1),
        (Price("c", cache_read=1), 0, Usage(cache_read=5), 1),
        (Price("t", reasoning=1), 0, Usage(reasoning=5), 1),
        (BY_TIME, 0, Usage(fresh_input=1), 1),
        (Price("f", per_request=1), 0, Usage(fresh_input=1), 1),
        (NO_FEE, 1, Usage(fresh_input=1), 0),
        (NO_FEE, 0, Usage(), 0),
        (Price("free"), 0, Usage(fresh_input=1), 0),
    ],
)
def test_tokens_on_a_priced_entity_that_cost_nothing_raise_the_alarm(
    tmp_path: Path, price: Price, cost: int, usage: Usage, alarms: int
) -> None:
    telemetry = Telemetry(tmp_path)
    exchange: Any = SimpleNamespace(
        endpoint=SimpleNamespace(name="chat"),
        entity=SimpleNamespace(price=price),
        lease=None,
        doubt=None,
        api="openai.chat",
        first_byte_ns=None,
        received_ns=0,
    )
    telemetry.admitted(exchange)
    telemetry.settled(exchange, "ok", usage, cost, 1_000)
    assert telemetry._tallies["chat"].unpriced == alarms
