"""OpenAI's request bodies: what is read of them, what is consumed here, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from engines.embeddings import read_embedding
from engines.errors import Unsupported
from gateway.errors import BadRequest
from gateway.http.databricks.invocations import invoked, read_invocation
from gateway.http.openai.azure import called
from gateway.http.openai.embeddings import MAX_INPUTS
from gateway.http.openai.embeddings import read_embedding as embedding
from gateway.http.openai.requests import read_chat, read_completion

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, **fields}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": MESSAGES}, "model", "invalid_request"),
    (chat(model=""), "model", "invalid_request"),
    (chat(model=7), "model", "invalid_request"),
    (chat(messages=[]), "messages", "invalid_request"),
    (chat(messages="hi"), "messages", "invalid_request"),
    (chat(messages=["hi"]), "messages[0]", "invalid_request"),
    (chat(messages=[{"role": "boss", "content": "x"}]), "messages[0].role", "invalid_request"),
    (chat(messages=[{"role": "user"}]), "messages[0].content", "invalid_request"),
    (chat(messages=[{"role": "user", "content": 7}]), "messages[0].content", "invalid_request"),
    (chat(messages=[{"role": "user", "content": "x", "audio": 1}]), "messages[0].audio", "unsupported_field"),
    *((chat(max_tokens=value), "max_tokens", "invalid_request") for value in (-1, 0, 2**63, "10", 1.5, True)),
    *((chat(n=value), "n", "invalid_request") for value in (0, 129, "2")),
    *((chat(temperature=value), "temperature", "invalid_request") for value in (-1, 3, "hot", True)),
    (chat(stream="yes"), "stream", "invalid_request"),
    (chat(stream_options={"include_usage": True}), "stream_options", "invalid_request"),
    (chat(stream=True, stream_options={"other": True}), "stream_options.other", "unsupported_field"),
    (chat(stop=7), "stop", "invalid_request"),
    (chat(tools={"a": 1}), "tools", "invalid_request"),
    (chat(tools=[{"type": "function"}]), "tools[0]", "invalid_request"),
    (
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": 3}}]),
        "tools[0].function.parameters",
        "invalid_request",
    ),
    (chat(metadata={"a": 1}), "metadata.a", "invalid_request"),
    (chat(Model="x"), "Model", "duplicate_key"),
    *(
        (chat(**{name: "x"}), name, "unsupported_field")
        for name in (
            "api_base",
            "base_url",
            "api_key",
            "extra_headers",
            "chat_template",
            "guided_decoding_backend",
            "priority",
            "cache_salt",
        )
    ),
    (
        chat(
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
                }
            ]
        ),
        "messages[0].content[0].image_url.url",
        "unsupported_content",
    ),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_body_that_cannot_be_served_is_refused_and_the_field_is_named(
    body: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chat(body)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_what_the_gateway_consumes_is_not_sent_on() -> None:
    request = read_chat(
        chat(
            user="u",
            metadata={"team": "a"},
            usage_context={"project": "b"},
            store=False,
            client_request_id="c",
            temperature=0.5,
            stream=True,
        )
    )
    assert request.body == {"messages": MESSAGES, "temperature": 0.5}
    assert (request.end_user, request.client_request_id) == ("u", "c")
    assert request.tags == {"team": "a", "project": "b"}
    assert request.stream


def test_the_newer_name_of_the_bound_wins() -> None:
    assert read_chat(chat(max_tokens=5, max_completion_tokens=7)).max_tokens == 7
    assert read_chat(chat(max_tokens=5)).max_tokens == 5
    assert read_chat(chat()).max_tokens is None


def test_text_is_measured_in_bytes_of_all_its_parts() -> None:
    parts = [{"type": "text", "text": "né"}, {"type": "text", "text": "ab"}]
    request = read_chat(
        chat(messages=[{"role": "system", "content": "abc"}, {"role": "user", "content": parts}])
    )
    assert (request.text_bytes, request.messages) == (3 + 3 + 2, 2)
    with_tools = read_chat(chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]))
    assert with_tools.text_bytes > 40


def test_fields_that_an_engine_may_not_know_are_listed_for_the_route_to_decide() -> None:
    assert read_chat(chat(web_search_options={}, prediction={})).unknown == (
        "prediction",
        "web_search_options",
    )


@pytest.mark.parametrize(
    ("prompt", "n", "ids"),
    [("hello", 1, 0), (["a", "b"], 2, 0), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_prompts_come_as_texts_or_token_ids_and_multiply_the_output(prompt: Any, n: int, ids: int) -> None:
    request = read_completion({"model": "m", "prompt": prompt, "n": 3})
    assert (request.n, request.token_ids) == (3 * n, ids)
    assert request.body == {"prompt": prompt, "n": 3}


@pytest.mark.parametrize("prompt", [None, "", 7, [], ["a", 1], [[]]])
def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    if prompt == "":
        assert read_completion({"model": "m", "prompt": prompt}).text_bytes == 0
        return
    with pytest.raises(BadRequest):
        read_completion({"model": "m", "prompt": prompt})


def test_an_invocation_is_told_apart_by_its_fields_and_named_by_its_path() -> None:
    assert read_invocation({"messages": MESSAGES}, "e").path == "/v1/chat/completions"
    assert read_invocation({"prompt": "x"}, "e").model == "e"
    with pytest.raises(BadRequest):
        read_invocation({"dataframe_split": {}}, "e")


def test_an_answer_can_be_handed_back_as_it_came() -> None:
    """With all that providers and vLLM put beside its words, much of it empty; notes on it are for readers, not for models."""
    empty = {"refusal": None, "annotations": [{"type": "url_citation"}], "audio": None, "parsed": {"a": 1}}
    bare = {"role": "assistant", "content": "hello"}
    told = read_chat(chat(messages=[*MESSAGES, {**bare, **empty, "tool_calls": [], "reasoning": None}]))
    assert told.body["messages"][1] == bare
    proofs = {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}
    assert read_chat(chat(messages=[*MESSAGES, {**bare, **proofs}])).body["messages"][1] == {**bare, **proofs}
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
    ]
    assert read_chat(chat(messages=[{"role": "assistant", "content": parts}])).text_bytes > 2
    for role, more in (("user", empty), ("assistant", {"audio": {"id": "a"}})):
        with pytest.raises(BadRequest) as refused:
            read_chat(chat(messages=[{"role": role, "content": "x", **more}]))
        assert refused.value.code == "unsupported_field"
    with pytest.raises(BadRequest):
        read_chat(chat(messages=[{"role": "user", "content": parts}]))


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        (b"/serving-endpoints/chat/invocations", "chat"),
        (b"/endpoints/chat/invocations/", "chat"),
        (b"/serving-endpoints/my%2Dchat%2Fone/invocations", "my-chat/one"),
        # What was quoted twice is read once.
        (b"/serving-endpoints/my%252Dchat/invocations", "my%2Dchat"),
        (b"/serving-endpoints//invocations", None),
        (b"/serving-endpoints/chat/invocations/more", None),
        (b"/serving-endpoints/chat", None),
    ],
)
def test_an_invocation_names_its_endpoint_as_it_was_quoted(path: bytes, endpoint: str | None) -> None:
    assert invoked(path) == endpoint


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        (b"/openai/deployments/my%2Dchat/chat/completions", "my-chat"),
        # What was quoted twice is read once.
        (b"/openai/deployments/my%252Dchat/chat/completions", "my%2Dchat"),
        (b"/openai/deployments//chat/completions", None),
    ],
)
def test_a_deployment_is_named_as_it_was_quoted(path: bytes, endpoint: str | None) -> None:
    assert called(path)[1] == endpoint


def test_inputs_to_embed_are_counted_whether_they_are_texts_or_ids() -> None:
    for each in ("x", [7]):
        assert embedding({"model": "m", "input": [each] * MAX_INPUTS}).messages == MAX_INPUTS
        with pytest.raises(BadRequest) as caught:
            embedding({"model": "m", "input": [each] * (MAX_INPUTS + 1)})
        assert caught.value.param == "input"


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_ids_of_tokens_are_no_text_for_a_provider_of_another_dialect(ids: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        read_embedding({"input": ids})
    assert caught.value.param == "input"


@pytest.mark.parametrize("below", [b"/openai/v1/", b"/openai/deployments/m/"])
@pytest.mark.parametrize(
    ("kind", "api"),
    [
        (b"chat/completions", "azure.chat"),
        (b"completions", "azure.completions"),
        (b"embeddings", "azure.embeddings"),
        (b"responses", "azure.responses"),
    ],
)
def test_azures_paths_lead_to_what_they_name(below: bytes, kind: bytes, api: str) -> None:
    found, endpoint = called(below + kind)
    if (below, kind) == (b"/openai/deployments/m/", b"responses"):
        # Azure has none there: its client asks below /openai itself.
        assert found is None
        found = called(b"/openai/responses")[0]
    else:
        assert endpoint == ("m" if b"deployments" in below else None)
    assert found is not None and found.name == api
