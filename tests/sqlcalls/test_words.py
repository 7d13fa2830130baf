"""What goes in and what comes out of a call from SQL: parameters under a client's checks, refusals as SQLSTATEs."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from gateway.errors import (
    BadRequest,
    BudgetExhausted,
    Forbidden,
    GatewayError,
    LimitDetail,
    LimitExceeded,
    NotFound,
    OutOfService,
    TooLarge,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.sqlcalls.asking import read_call
from gateway.sqlcalls.telling import sqlstate, told
from gateway.store.sql_calls import SqlCall
from policies.catalog import Endpoint, Snapshot

DETAIL = LimitDetail("l", "requests", "user x", 1, 0, 1, "minute", 0)
SNAPSHOT = Snapshot(
    1,
    endpoints={
        "chat": Endpoint("e1", "chat", "llm/v1/chat", ()),
        "text": Endpoint("e2", "text", "llm/v1/completions", ()),
        "vectors": Endpoint("e3", "vectors", "llm/v1/embeddings", ()),
    },
)


def call(endpoint: str = "chat", kind: str = "query", **body: object) -> SqlCall:
    return SqlCall(
        UUID(int=1), bytes(16), "analyst", "p", kind, endpoint, json.dumps({"request": "hi", **body}), None
    )


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Forbidden("no"), "42501"),
        (NotFound("no"), "42704"),
        (LimitExceeded("no", DETAIL, retry_after_seconds=5, headers=[]), "53400"),
        (LimitExceeded("no", DETAIL, retry_after_seconds=500, headers=[]), "53400"),
        (BudgetExhausted("no", DETAIL, headers=[]), "53400"),
        (BadRequest("no", param="temperature"), "22023"),
        (BadRequest("no", code="unsupported_task"), "0A000"),
        (TooLarge("no"), "54000"),
        (Unavailable("no"), "57P03"),
        (OutOfService("no"), "55000"),
        (UpstreamFailed("no"), "58000"),
        (UpstreamTimeout("no"), "58000"),
        (GatewayError("no"), "XX000"),
    ],
)
def test_every_refusal_has_its_sqlstate(error: GatewayError, state: str) -> None:
    assert sqlstate(error) == state
    said = json.loads(told(error, "the-id"))
    assert (said["code"], said["message"]) == (state, "no")
    assert "the-id" in said["detail"]
    assert ("hint" in said) == (error.retry_after_seconds is not None)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"content": "an answer"}}]}, "an answer"),
        ({"choices": [{"text": "a completion"}]}, "a completion"),
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": [{"message": {"content": "a\0b"}}]}, "a\ufffdb"),
        ({"choices": [{"message": {"content": "C:\\u0000"}}]}, "C:\\u0000"),
    ],
)
def test_an_answer_is_its_text_in_what_postgresql_can_hold(body: object, text: str) -> None:
    assert json.loads(told(json.dumps(body).encode(), "id")) == {"answer": text}


def test_a_model_that_calls_tools_answers_with_its_message() -> None:
    message = {"content": None, "tool_calls": [{"id": "1"}]}
    answer = json.loads(told(json.dumps({"choices": [{"message": message}]}).encode(), "id"))["answer"]
    assert json.loads(answer) == message


def test_a_request_becomes_a_message_or_a_prompt_by_what_the_endpoint_serves() -> None:
    chat = read_call(call(modelparameters={"max_tokens": 7, "temperature": 0}), SNAPSHOT)
    assert chat.body["messages"] == [{"role": "user", "content": "hi"}]
    assert (chat.path, chat.max_tokens, chat.end_user, chat.stream) == (
        "/v1/chat/completions",
        7,
        "analyst",
        False,
    )
    assert read_call(call("text"), SNAPSHOT).body["prompt"] == "hi"
    assert read_call(call("unheard of"), SNAPSHOT).model == "unheard of"
    wanted = read_call(call(responseformat='{"type": "json_object"}'), SNAPSHOT)
    assert wanted.body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"modelparameters": {"messages": []}}, "modelparameters.messages"),
        ({"modelparameters": {"stream": True}}, "modelparameters.stream"),
        ({"modelparameters": {"model": "other"}}, "modelparameters.model"),
        ({"modelparameters": [1]}, "modelparameters"),
        ({"modelparameters": {"n": 2}}, "n"),
        ({"modelparameters": {"temperature": 9}}, "temperature"),
        ({"modelparameters": {"api_base": "http://elsewhere"}}, "api_base"),
        ({"responseformat": "STRUCT<a: INT>"}, "responseformat"),
        ({"responseformat": "[]"}, "responseformat"),
    ],
)
def test_parameters_say_nothing_that_is_said_elsewhere_or_that_no_client_may_say(
    given: dict[str, object], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        read_call(call(**given), SNAPSHOT)
    assert refused.value.param == param


def test_a_text_to_embed_becomes_an_input_and_its_vector_the_answer() -> None:
    asked = read_call(call("vectors", "embed"), SNAPSHOT)
    assert (asked.path, asked.body, asked.end_user) == ("/v1/embeddings", {"input": "hi"}, "analyst")
    body = json.dumps({"data": [{"embedding": [0.5, -1, 2e-7]}]}).encode()
    assert json.loads(told(body, "id")) == {"answer": [0.5, -1, 2e-7]}


def test_words_of_an_endpoint_that_embeds_are_refused_as_not_offered() -> None:
    with pytest.raises(BadRequest, match="ai_embed") as refused:
        read_call(call("vectors", "query"), SNAPSHOT)
    assert sqlstate(refused.value) == "0A000"
