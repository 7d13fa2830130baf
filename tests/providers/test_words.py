"""Each provider's own words, one by one: why an answer stopped, what its counts are, what a refusal means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engines.anthropic.answers import Messages
from engines.bedrock.answers import Converse
from engines.canonical import Stop, Usage
from engines.cohere.answers import Cohere
from engines.errors import Reason, Refused, Reported
from engines.gemini.answers import Gemini
from engines.messages import WireUsage, believed
from gateway.pipeline.failures import translated

SAID = {"role": "assistant", "content": [{"type": "text", "text": "so"}]}
TOLD: dict[Any, dict[str, Any]] = {
    Messages: {"stop_reason": "end_turn", "content": SAID["content"]},
    Gemini: {"candidates": [{"content": {"parts": [{"text": "so"}]}, "finishReason": "STOP"}]},
    Converse: {"stopReason": "end_turn", "output": {"message": {"content": [{"text": "so"}]}}},
    Cohere: {"finish_reason": "COMPLETE", "message": SAID},
}
WHERE = {Messages: "stop_reason", Converse: "stopReason", Cohere: "finish_reason"}
STOPS = [
    *[(Messages, word, stop) for word, stop in (
        ("end_turn", Stop.END), ("max_tokens", Stop.LENGTH), ("model_context_window_exceeded", Stop.LENGTH),
        ("stop_sequence", Stop.SEQUENCE), ("tool_use", Stop.TOOLS), ("pause_turn", Stop.PAUSE), ("refusal", Stop.REFUSAL),
    )],
    *[(Gemini, word, stop) for word, stop in (("STOP", Stop.END), ("MAX_TOKENS", Stop.LENGTH))],
    *[(Gemini, word, Stop.FILTER) for word in (
        "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "OTHER",
    )],
    *[(Converse, word, stop) for word, stop in (
        ("end_turn", Stop.END), ("tool_use", Stop.TOOLS), ("max_tokens", Stop.LENGTH), ("stop_sequence", Stop.SEQUENCE),
        ("model_context_window_exceeded", Stop.LENGTH), ("guardrail_intervened", Stop.FILTER),
        ("content_filtered", Stop.FILTER), ("refusal", Stop.REFUSAL),
    )],
    *[(Cohere, word, stop) for word, stop in (
        ("COMPLETE", Stop.END), ("STOP_SEQUENCE", Stop.SEQUENCE), ("MAX_TOKENS", Stop.LENGTH), ("TOOL_CALL", Stop.TOOLS),
    )],
]  # fmt: skip


def answered(dialect: Any, **more: Any) -> Any:
    return dialect().read_answer(msgspec.json.encode({**TOLD[dialect], **more}))


def stopped(dialect: Any, word: str) -> Any:
    if dialect is Gemini:
        return answered(Gemini, candidates=[{**TOLD[Gemini]["candidates"][0], "finishReason": word}])
    return answered(dialect, **{WHERE[dialect]: word})


@pytest.mark.parametrize(("dialect", "word", "stop"), STOPS)
def test_an_answer_stopped_for_what_its_provider_says(dialect: Any, word: str, stop: Stop) -> None:
    assert stopped(dialect, word).stop is stop


@pytest.mark.parametrize("dialect", [Gemini, Converse, Cohere])
def test_a_word_that_nobody_knows_is_no_end_of_an_answer(dialect: Any) -> None:
    with pytest.raises(Reported):
        stopped(dialect, "MALFORMED_FUNCTION_CALL")


@pytest.mark.parametrize(
    ("dialect", "told", "classes"),
    [
        (
            Messages,
            {"usage": {
                "input_tokens": 10, "cache_read_input_tokens": 200, "cache_creation_input_tokens": 30,
                "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4},
            }},
            Usage(fresh=10, cache_read=200, cache_write=30, output=5, reasoning=4),
        ),
        (
            Gemini,
            {"usageMetadata": {
                "promptTokenCount": 210, "cachedContentTokenCount": 200, "candidatesTokenCount": 5,
                "thoughtsTokenCount": 4, "toolUsePromptTokenCount": 7,
            }},
            Usage(fresh=17, cache_read=200, output=5, reasoning=4),
        ),
        (
            Converse,
            {"usage": {
                "inputTokens": 10, "outputTokens": 9, "cacheReadInputTokens": 200, "cacheWriteInputTokens": 30,
            }},
            Usage(fresh=10, cache_read=200, cache_write=30, output=9),
        ),
        (
            Cohere,
            {"usage": {
                "billed_units": {"input_tokens": 210, "output_tokens": 9}, "tokens": {"input_tokens": 900},
                "cached_tokens": 200,
            }},
            Usage(fresh=10, cache_read=200, output=9),
        ),
    ],
)  # fmt: skip
def test_counts_are_in_classes_of_which_no_two_share_a_token(
    dialect: Any, told: dict[str, Any], classes: Usage
) -> None:
    assert answered(dialect, **told).usage == classes


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        # xAI: thoughts beside the completion, which only the sum tells.
        ({"total_tokens": 24, "completion_tokens_details": {"reasoning_tokens": 9}}, (10, 14, 0, 9)),
        ({"total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 3}}, (10, 5, 0, 3)),
        # DeepSeek's word for what was cached; OpenAI's goes before it.
        ({"prompt_cache_hit_tokens": 8}, (10, 5, 8, 0)),
        ({"prompt_cache_hit_tokens": 8, "prompt_tokens_details": {"cached_tokens": 6}}, (10, 5, 6, 0)),
    ],
)
def test_of_openais_family_each_has_its_own_words_for_the_same_counts(
    told: dict[str, Any], counts: tuple[int, ...]
) -> None:
    count = believed(msgspec.convert({"prompt_tokens": 10, "completion_tokens": 5, **told}, WireUsage))
    assert count is not None
    assert (count.prompt, count.completion, count.cached, count.reasoning) == counts


@pytest.mark.parametrize(
    ("dialect", "status", "body", "reason"),
    [
        (Messages, 400, b"prompt is too long: 210000 tokens", Reason.CONTEXT_LENGTH),
        (Messages, 413, b"", Reason.CONTEXT_LENGTH),
        (Messages, 400, b"max_tokens: too small", Reason.INVALID),
        (Messages, 529, b"", Reason.OVERLOADED),
        (Gemini, 400, b"API_KEY_INVALID", Reason.CREDENTIAL),
        (Gemini, 400, b"API_KEY_EXPIRED", Reason.CREDENTIAL),
        (Gemini, 400, b"The input token count (9) exceeds", Reason.CONTEXT_LENGTH),
        (Gemini, 429, b"", Reason.RATE_LIMITED),
        (Converse, 400, b"Input is too long for requested model", Reason.CONTEXT_LENGTH),
        (Converse, 400, b"UnrecognizedClientException", Reason.CREDENTIAL),
        (Converse, 400, b"ExpiredTokenException", Reason.CREDENTIAL),
        (Converse, 400, b"malformed", Reason.INVALID),
        (Converse, 424, b"", Reason.FAILED),
        (Cohere, 422, b"too many tokens", Reason.CONTEXT_LENGTH),
        (Cohere, 498, b"", Reason.CREDENTIAL),
        (Cohere, 499, b"", Reason.FAILED),
        (Cohere, 402, b"", Reason.QUOTA),
    ],
)
def test_a_refusal_means_what_its_provider_means_by_it(
    dialect: Any, status: int, body: bytes, reason: Reason
) -> None:
    assert dialect().reason(status, body) is reason


@pytest.mark.parametrize(
    ("status", "wait", "code", "told"),
    [
        (401, None, "upstream_credential_refused", None),
        (402, None, "upstream_quota_exhausted", None),
        (429, 3, "upstream_overloaded", 3),
        (429, 0.25, "upstream_overloaded", 1),
        (429, None, "upstream_overloaded", 2),
        # No SDK should sleep for an hour because an upstream would like it to.
        (503, 3600, "upstream_overloaded", 10),
        (429, 0, "upstream_overloaded", 2),
        # Whether it or we gave up waiting, the caller's call took too long.
        (504, None, "upstream_timeout", None),
        (408, None, "upstream_timeout", None),
    ],
)
def test_a_caller_is_told_whose_fault_it_is_and_how_long_to_wait_at_most(
    status: int, wait: float | None, code: str, told: int | None
) -> None:
    error = translated(Refused(status, b"", None if wait is None else round(wait * 1_000)))
    assert (error.code, error.retry_after_seconds) == (code, told)


@pytest.mark.parametrize(
    ("reason", "status", "code", "wait"),
    [
        (Reason.OVERLOADED, 502, "upstream_overloaded", 2),
        (Reason.RATE_LIMITED, 502, "upstream_overloaded", 2),
        (Reason.CREDENTIAL, 502, "upstream_credential_refused", None),
        (Reason.QUOTA, 502, "upstream_quota_exhausted", None),
        (Reason.INVALID, 400, "rejected_by_model", None),
        (Reason.FAILED, 502, "upstream_failed", None),
        (Reason.TIMED_OUT, 504, "upstream_timeout", None),
    ],
)
def test_what_is_told_where_a_stream_should_begin_means_what_a_refusal_does(
    reason: Reason, status: int, code: str, wait: int | None
) -> None:
    error = translated(Reported(reason))
    assert (error.status, error.code, error.retry_after_seconds) == (status, code, wait)
