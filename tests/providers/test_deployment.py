"""Through the real gateway to every provider: plain and streamed, paid for, counted by class, and told in our own words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engines.anthropic.client_writing import STOPPED
from tests.providers import wires, wires_responses
from tests.providers.cases import CASES
from tests.providers.stub import AWS, SECRET_WORDS, Providers
from tests.system.asking import Answer
from tests.system.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"
KINDS = {
    "openai": ("/openai/v1", "key-one"),
    "anthropic": ("/anthropic/v1", "key-one"),
    "gemini": ("/gemini/v1beta", "key-one"),
    "amazon-bedrock": ("/bedrock", ":".join(AWS)),
    "cohere": ("/cohere/v2", "key-one"),
}
MADE: dict[str, str] = {}
"""Provider's kind -> its id."""
PRICE = {"input": 1_000_000, "cache_read": 100_000, "cache_write": 2_000_000, "output": 5_000_000}


async def provider(gateway: Deployment, stub: Providers, kind: str) -> str:
    """The id of a provider of that kind."""
    if kind not in MADE:
        path, secret = KINDS[kind]
        body = {
            "name": f"my {kind}",
            "provider": kind,
            "base_url": stub.url(path),
            "credential": {"secret": secret},
        }
        answer = await gateway.ask("POST", "/admin/v1/providers", body, key=gateway.admin_key)
        assert answer.status == 201, answer.body
        assert secret.encode() not in answer.body
        MADE[kind] = answer.json()["id"]
    return MADE[kind]


async def endpoint(gateway: Deployment, stub: Providers, kind: str, model: str) -> str:
    """The name of an endpoint that a provider's model answers for."""
    name = f"{kind}-{model.replace(' ', '-')}"
    if name not in MADE:
        entity = {
            "name": "it",
            "kind": "external",
            "provider": kind,
            "model": model,
            "credential_id": await provider(gateway, stub, kind),
            "options": {"region": "eu-west-1"} if kind == "amazon-bedrock" else {},
        }
        body = {"name": name, "served_entities": [entity]}
        answer = await gateway.ask("POST", "/admin/v1/endpoints", body, key=gateway.admin_key)
        assert answer.status == 201, answer.body
        made = answer.json()["served_entities"][0]["id"]
        price = {"served_entity_id": made, **PRICE, "reasoning": 5_000_000}
        answer = await gateway.ask("POST", "/admin/v1/prices", price, key=gateway.admin_key)
        assert answer.status == 201, answer.body
        MADE[name] = answer.json()["id"]
        await gateway.followed()
    return name


async def call(gateway: Deployment, name: str, **more: Any) -> Answer:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "How are you?"}],
        "max_tokens": 100,
        **more,
    }
    return await gateway.ask("POST", CHAT, body, key=gateway.admin_key, timeout=60.0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_provider_answers_plain_and_streamed_and_the_ledger_has_its_count_and_cost(
    gateway: Deployment, stub: Providers, kind: str
) -> None:
    name = await endpoint(gateway, stub, kind, "cached")
    plain = await call(gateway, name)
    assert plain.status == 200, (plain.body, gateway.ends_of_logs())
    assert plain.json()["choices"][0]["message"]["content"] == "Again."
    stream = await call(gateway, name, stream=True)
    events = stream.events()
    assert events[-1] == "[DONE]"
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in events[:-1])
    assert text == "Again."
    assert all(each["choices"] for each in events[:-1])
    usage = CASES["cached"].usage
    assert usage is not None
    for answer in (plain, stream):
        row = await gateway.row_of(answer.request_id)
        assert (row["status"], row["usage_source"]) == ("ok", "reported")
        written = 0 if kind in ("gemini", "cohere") else usage.cache_write
        fresh = usage.fresh + usage.cache_write - written
        counted = (row["fresh_input"], row["cache_read"], row["cache_write"], row["output"])
        assert counted == (fresh, usage.cache_read, written, usage.output)
        assert row["cost_nano_usd"] == fresh + 3 + 2 * written + 5 * usage.output
        assert "set-cookie" not in answer.headers
    sent = stub.calls[-1]
    assert not {"cookie", "x-forwarded-for"} & sent.headers.keys()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_is_answered_by_every_provider_and_passes_through_where_the_dialect_is_its_own(
    gateway: Deployment, stub: Providers, kind: str
) -> None:
    name = await endpoint(gateway, stub, kind, "cached")
    body = {
        "model": name,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "How are you?"}]}],
    }
    usage = CASES["cached"].usage
    assert usage is not None
    told_beside = [("anthropic-beta", "context-management-2025-06-27"), ("anthropic-version", "2026-10-21")]
    own = {"context_management": {"edits": []}} if kind == "anthropic" else {}
    for stream in (False, True):
        sent = {**body, **own, "stream": stream, "metadata": {"user_id": "ann"}}
        answer = await gateway.ask("POST", "/v1/messages", sent, key=gateway.admin_key, headers=told_beside)
        assert answer.status == 200, (answer.body, gateway.ends_of_logs())
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        if stream:
            assert answer.body.endswith(STOPPED)
            assert answer.body.count(b"event: message_stop") == 1
            assert b'"text":"Again' in answer.body
        else:
            assert answer.json()["content"][0]["text"] == "Again."
        row = await gateway.row_of(answer.request_id)
        assert (row["api"], row["status"], row["end_user"]) == ("anthropic.messages", "ok", "ann")
        assert row["prompt_tokens"] == usage.prompt
        assert row["completion_tokens"] == usage.completion
        asked = stub.calls[-1]
        assert ("anthropic-beta" in asked.headers) is (kind == "anthropic")
        if kind == "anthropic":
            assert asked.headers["anthropic-version"] == "2026-10-21"
            wired = wires.anthropic_stream(CASES["cached"]) if stream else None
            assert answer.body == wired or answer.json() == wires.anthropic_plain(CASES["cached"])
            told = {**body, **own, "model": "cached"} | ({"stream": True} if stream else {})
            assert asked.body == told
    calls = len(stub.calls)
    counted = {key: value for key, value in body.items() if key != "max_tokens"}
    answer = await gateway.ask("POST", "/v1/messages/count_tokens", counted, key=gateway.admin_key)
    assert answer.status == 200, answer.body
    if kind == "anthropic":
        assert answer.json() == {"input_tokens": 4_711}
        assert stub.calls[-1].path.endswith("/messages/count_tokens")
    else:
        assert 0 < answer.json()["input_tokens"] < 100
        assert len(stub.calls) == calls
    if kind not in ("anthropic",):
        refused = await gateway.ask(
            "POST", "/v1/messages", {**body, "context_management": {}}, key=gateway.admin_key
        )
        assert refused.status == 400
        assert "context_management" in refused.json()["error"]["message"]
        assert len(stub.calls) == calls


@pytest.mark.parametrize("kind", KINDS)
async def test_tools_called_at_once_come_back_whole(gateway: Deployment, stub: Providers, kind: str) -> None:
    name = await endpoint(gateway, stub, kind, "tools at once")
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }
    asked = {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    plain = (await call(gateway, name, **asked)).json()["choices"][0]
    assert plain["finish_reason"] == "tool_calls"
    assert [each["function"]["name"] for each in plain["message"]["tool_calls"]] == [
        "weather",
        "clock",
        "weather",
    ]
    events = (await call(gateway, name, stream=True, **asked)).events()
    assert [e["choices"][0]["finish_reason"] for e in events[:-1] if e["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]


@pytest.mark.parametrize(
    ("kind", "failure", "status", "code"),
    [
        ("anthropic", "fail-401", 502, "upstream_credential_refused"),
        ("anthropic", "fail-400", 400, "rejected_by_model"),
        ("amazon-bedrock", "fail-429", 502, "upstream_overloaded"),
        *((kind, "fail-529", 502, "upstream_overloaded") for kind in KINDS),
    ],
)
async def test_what_a_provider_says_of_its_failure_is_not_passed_on(
    gateway: Deployment, stub: Providers, kind: str, failure: str, status: int, code: str
) -> None:
    name = await endpoint(gateway, stub, kind, failure)
    for stream in (False, True):
        answer = await call(gateway, name, stream=stream)
        assert (answer.status, answer.code) == (status, code), answer.body
        assert SECRET_WORDS.encode() not in answer.body
        assert SECRET_WORDS not in str(answer.headers)
    if code == "upstream_overloaded":
        assert 1 <= int(answer.headers["retry-after"]) <= 10
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["cost_nano_usd"]) == ("error", 0)


async def test_what_a_provider_cannot_be_asked_is_refused_by_name_and_nothing_is_sent(
    gateway: Deployment, stub: Providers
) -> None:
    name = await endpoint(gateway, stub, "anthropic", "text")
    before = len(stub.calls)
    answer = await call(gateway, name, n=2)
    assert (answer.status, answer.code, answer.json()["error"]["param"]) == (400, "unsupported_field", "n")
    assert len(stub.calls) == before


async def test_a_credential_is_rotated_under_load_without_a_failed_call(
    gateway: Deployment, stub: Providers
) -> None:
    name = await endpoint(gateway, stub, "cohere", "text")
    identity = MADE["cohere"]
    statuses: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            statuses.append((await call(gateway, name)).status)

    running = [asyncio.create_task(load()) for _ in range(4)]
    try:
        for number in range(2):
            fresh = f"key-new-{number}"
            # The provider takes the new one a while after it was entered here, and then only that.
            answer = await gateway.ask(
                "PUT",
                f"/admin/v1/providers/{identity}/credential",
                {"secret": fresh, "keep_seconds": 60},
                key=gateway.admin_key,
            )
            assert answer.status == 200, answer.body
            assert answer.json()["credential_version"] == number + 2
            await asyncio.sleep(0.6)
            stub.keys.add(fresh)
            await asyncio.sleep(1.2)
            stub.keys -= {"key-one", f"key-new-{number - 1}"}
            seen = len(stub.calls)
            while len(stub.calls) < seen + 8:
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await asyncio.gather(*running)
        stub.keys.add("key-one")
    assert len(statuses) > 20
    assert set(statuses) == {200}
    print(f"{len(statuses)} calls of four callers while the credential was rotated twice: none failed")
    told = {
        each.headers["authorization"]
        for each in stub.calls
        if each.path == "/cohere/v2/chat" and each.status == 200
    }
    assert {"Bearer key-new-0", "Bearer key-new-1"} <= told


async def test_another_address_erases_the_credential_and_nothing_is_sent_there(
    gateway: Deployment, stub: Providers
) -> None:
    body = {
        "name": "moving",
        "provider": "openai",
        "base_url": stub.url("/openai/v1"),
        "credential": {"secret": "key-one"},
    }
    made = await gateway.administer("POST", "/providers", body)
    entity = {
        "name": "it",
        "kind": "external",
        "provider": "openai",
        "model": "text",
        "credential_id": made["id"],
    }
    await gateway.administer("POST", "/endpoints", {"name": "moving", "served_entities": [entity]})
    assert (await call(gateway, "moving")).status == 200
    sealed = "SELECT count(*) AS found FROM gateway.provider_secrets WHERE provider_id = $1"
    assert (await gateway.query(sealed, made["id"]))[0]["found"] == 1
    async with Providers() as elsewhere:
        moved = await gateway.administer(
            "PATCH", f"/providers/{made['id']}", {"base_url": elsewhere.url("/openai/v1")}
        )
        assert (moved["credential"], moved["hint"]) == ("none", None)
        assert (await gateway.query(sealed, made["id"]))[0]["found"] == 0
        assert (await call(gateway, "moving")).status == 503
        assert elsewhere.connections == 0
        # Nor does an entity that is moved take a credential along.
        answer = await gateway.ask(
            "POST",
            "/admin/v1/endpoints",
            {"name": "straying", "served_entities": [{**entity, "base_url": stub.url("/openai/v1")}]},
            key=gateway.admin_key,
        )
        assert answer.status == 400
        assert elsewhere.connections == 0


async def test_credentials_come_from_the_environment_and_from_files_that_change(
    gateway: Deployment, stub: Providers
) -> None:
    folder = gateway.settings.credentials
    folder.mkdir(exist_ok=True)
    (folder / "openai.key").write_text("key-file\n")
    for name, credential in (
        ("by-variable", {"environment": "WEIGHBRIDGE_CREDENTIAL_OF_TESTS"}),
        ("by-file", {"file": "openai.key"}),
    ):
        body = {
            "name": name,
            "provider": "openai",
            "base_url": stub.url("/openai/v1"),
            "credential": credential,
        }
        made = await gateway.administer("POST", "/providers", body)
        entity = {
            "name": "it",
            "kind": "external",
            "provider": "openai",
            "model": "text",
            "credential_id": made["id"],
        }
        await gateway.administer("POST", "/endpoints", {"name": name, "served_entities": [entity]})
    assert (await call(gateway, "by-variable")).status == 200
    assert (await call(gateway, "by-file")).code == "upstream_credential_refused"
    (folder / "openai.key").write_text("key-one\n")
    deadline = asyncio.get_running_loop().time() + 15
    while (await call(gateway, "by-file")).status != 200:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    for credential in (
        {"environment": "WEIGHBRIDGE_DATABASE_URL"},
        {"file": "../master.key"},
        {"secret": "a", "file": "b"},
    ):
        body = {"name": "bad", "provider": "openai", "credential": credential}
        assert (await gateway.ask("POST", "/admin/v1/providers", body, key=gateway.admin_key)).status == 400


async def test_no_route_and_no_table_shows_a_credential(gateway: Deployment, stub: Providers) -> None:
    await provider(gateway, stub, "anthropic")
    secret = "key-one"
    for path in (
        "/providers",
        "/endpoints",
        "/audit",
        f"/providers/{MADE['anthropic']}",
        "/declarations/export",
    ):
        answer = await gateway.ask("GET", f"/admin/v1{path}", key=gateway.admin_key)
        assert secret.encode() not in answer.body, path
    for table in ("providers", "provider_secrets", "audit", "configuration_change"):
        try:
            rows = await gateway.query(f"SELECT t::text AS row FROM gateway.{table} t")
        except Exception:
            continue
        assert not [each for each in rows if secret in each["row"] or secret.encode().hex() in each["row"]], (
            table
        )
    assert secret not in gateway.ends_of_logs()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_response_is_answered_by_every_provider_plain_and_streamed(
    gateway: Deployment, stub: Providers, kind: str
) -> None:
    name = await endpoint(gateway, stub, kind, "cached")
    usage = CASES["cached"].usage
    assert usage is not None
    ended: list[dict[str, Any]] = []
    for stream in (False, True):
        body = {"model": name, "input": "How are you?", "max_output_tokens": 100, "stream": stream}
        answer = await gateway.ask("POST", "/v1/responses", body, key=gateway.admin_key)
        assert answer.status == 200, (answer.body, gateway.ends_of_logs())
        if stream:
            assert answer.body.count(b"event: response.completed\n") == 1
            last = answer.body.rstrip().rpartition(b"\ndata: ")[2]
            ended.append(json.loads(last)["response"])
        else:
            ended.append(answer.json())
        row = await gateway.row_of(answer.request_id)
        assert (row["api"], row["status"], row["usage_source"]) == ("openai.responses", "ok", "reported")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.prompt, usage.completion)
    plain, streamed = ended
    assert plain["output"][0]["content"][0]["text"] == "Again."
    for each in (streamed, plain):
        each["output"][0]["id"] = each["id"] = each["created_at"] = ""
    assert streamed == plain
    assert plain["usage"]["input_tokens"] == usage.prompt


async def speaking(gateway: Deployment, stub: Providers, name: str, *models: str, **more: Any) -> str:
    """An endpoint that models of OpenAI's answer for, at an address that is said to speak Responses; its id."""
    entities = [
        {
            "name": f"e{at}",
            "kind": "external",
            "provider": "openai",
            "model": model,
            "credential_id": await provider(gateway, stub, "openai"),
            "options": {"responses": "yes"},
            "traffic_percent": 0 if at else 100,
            "fallback_position": at + 1,
        }
        for at, model in enumerate(models)
    ]
    made = await gateway.administer("POST", "/endpoints", {"name": name, "served_entities": entities, **more})
    return made["id"]


@pytest.mark.parametrize("case", ["cached", "tools at once", "reasoning", "length"])
async def test_a_response_passes_untouched_where_the_provider_speaks_it_too(
    gateway: Deployment, stub: Providers, case: str
) -> None:
    name = f"responses-{case.replace(' ', '-')}"
    await speaking(gateway, stub, name, case)
    answer, usage = CASES[case], CASES[case].usage
    assert usage is not None
    own = (wires.dumped(wires_responses.responses_plain(answer)), wires_responses.responses_stream(answer))
    for path in ("/v1/responses", "/serving-endpoints/responses", "/openai/v1/responses"):
        for stream in (False, True):
            body = {"model": name, "input": "How are you?", "stream": stream, "user": "ann", "future": 1}
            told = await gateway.ask("POST", path, body, key=gateway.admin_key)
            assert told.status == 200, (told.body, gateway.ends_of_logs())
            assert told.body == own[stream]
            sent = stub.calls[-1]
            assert sent.path == "/openai/v1/responses"
            assert (sent.body["store"], sent.body["future"]) == (False, 1)
            assert "user" not in sent.body
            assert sent.body.get("max_output_tokens") == (None if stream else 1024)
            row = await gateway.row_of(told.request_id)
            assert (row["status"], row["usage_source"]) == ("ok", "reported")
            assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.prompt, usage.completion)
            assert (row["cache_read"], row["reasoning"]) == (usage.cache_read, usage.reasoning)
            assert row["finish_reason"] == answer.stop.finish_reason


async def test_a_conversation_that_is_kept_here_goes_to_the_provider_whole_and_is_kept_nowhere_else(
    gateway: Deployment, stub: Providers
) -> None:
    await speaking(gateway, stub, "kept-here", "text", calling={"keep_responses_hours": 1})
    said: list[Any] = []
    previous: str | None = None
    for number in range(4):
        stream = bool(number % 2)
        body = {
            "model": "kept-here",
            "input": f"turn {number}",
            "stream": stream,
            "metadata": {"n": str(number)},
        }
        body |= {} if previous is None else {"previous_response_id": previous}
        told = await gateway.ask("POST", "/v1/responses", body, key=gateway.admin_key)
        assert told.status == 200, (told.body, gateway.ends_of_logs())
        last = told.body.rstrip().rpartition(b"\ndata: ")[2]
        response = json.loads(last)["response"] if stream else told.json()
        said.append({"role": "user", "content": f"turn {number}"})
        sent = stub.calls[-1].body
        assert sent["input"] == (said if previous else f"turn {number}")
        assert sent["store"] is False
        assert not {"previous_response_id", "metadata", "id"} & sent.keys()
        assert (response["previous_response_id"], response["store"]) == (previous, True)
        assert response["metadata"] == {"n": str(number)}
        assert response["id"] != wires_responses.ID
        assert wires_responses.ID.encode() not in told.body
        said += response["output"]
        previous = response["id"]
        found = await gateway.ask("GET", f"/v1/responses/{previous}", key=gateway.admin_key)
        assert found.json() == response


async def test_a_response_that_its_provider_fails_comes_from_one_of_another_dialect(
    gateway: Deployment, stub: Providers
) -> None:
    entities = [
        {
            "name": "first",
            "kind": "external",
            "provider": "openai",
            "model": "fail-529",
            "credential_id": await provider(gateway, stub, "openai"),
            "options": {"responses": "yes"},
        },
        {
            "name": "second",
            "kind": "external",
            "provider": "anthropic",
            "model": "text",
            "credential_id": await provider(gateway, stub, "anthropic"),
            "traffic_percent": 0,
            "fallback_position": 1,
        },
    ]
    await gateway.administer("POST", "/endpoints", {"name": "either-dialect", "served_entities": entities})
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": wires_responses.SEALED}
    asked = [{"role": "user", "content": "?"}, sealed, {"role": "user", "content": "!"}]
    for stream in (False, True):
        body = {"model": "either-dialect", "input": asked, "stream": stream}
        told = await gateway.ask("POST", "/v1/responses", body, key=gateway.admin_key)
        assert told.status == 200, (told.body, gateway.ends_of_logs())
        assert SECRET_WORDS.encode() not in told.body
        assert [each.path for each in stub.calls[-2:]] == ["/openai/v1/responses", "/anthropic/v1/messages"]
        assert wires_responses.SEALED in str(stub.calls[-2].body)
        assert wires_responses.SEALED not in str(stub.calls[-1].body)


async def test_only_yes_and_no_say_whether_an_address_speaks_responses(
    gateway: Deployment, stub: Providers
) -> None:
    for kind, said in (("openai", "perhaps"), ("anthropic", "yes")):
        entity = {
            "name": "it",
            "kind": "external",
            "provider": kind,
            "model": "text",
            "credential_id": await provider(gateway, stub, kind),
            "options": {"responses": said},
        }
        body = {"name": "unsaid", "served_entities": [entity]}
        answer = await gateway.ask("POST", "/admin/v1/endpoints", body, key=gateway.admin_key)
        assert answer.status == 400
        assert "responses" in answer.json()["error"]["message"]
    # What is spoken there is not where it is: the credential stays.
    made = await speaking(gateway, stub, "said-later", "text")
    (entity,) = (await gateway.administer("GET", f"/endpoints/{made}"))["served_entities"]
    later = {**entity, "options": {"responses": "no"}, "credential_id": None}
    changed = await gateway.administer("PATCH", f"/endpoints/{made}", {"served_entities": [later]})
    assert changed["served_entities"][0]["credential_id"] == entity["credential_id"]
    asked = {"model": "said-later", "input": "?"}
    assert (await gateway.ask("POST", "/v1/responses", asked, key=gateway.admin_key)).status == 200
    assert stub.calls[-1].path == "/openai/v1/chat/completions"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_is_embedded_by_every_provider_that_embeds(
    gateway: Deployment, stub: Providers, kind: str
) -> None:
    body = {
        "name": f"vectors-{kind}",
        "task": "llm/v1/embeddings",
        "served_entities": [
            {
                "name": "it",
                "kind": "external",
                "provider": kind,
                "model": "amazon.titan-embed-text-v2:0" if kind == "amazon-bedrock" else "embedding",
                "credential_id": await provider(gateway, stub, kind),
                "options": {"region": "eu-west-1"} if kind == "amazon-bedrock" else {},
            }
        ],
    }
    made = await gateway.ask("POST", "/admin/v1/endpoints", body, key=gateway.admin_key)
    assert made.status == 201, made.body
    await gateway.followed()
    asked = {"model": body["name"], "input": "one text"}
    answer = await gateway.ask("POST", "/v1/embeddings", asked, key=gateway.admin_key)
    row = await gateway.row_of(answer.request_id)
    assert (row["api"], row["completion_tokens"]) == ("openai.embeddings", 0)
    if kind == "anthropic":
        assert answer.status == 400
        assert "no embeddings" in answer.json()["error"]["message"]
        return
    assert answer.status == 200, (answer.body, gateway.ends_of_logs())
    assert answer.json()["data"][0]["embedding"] == [0.5, 0]
    # One tells no count of the input: it is estimated, and the row says so.
    assert row["usage_source"] == ("estimated" if kind == "gemini" else "reported")
    assert row["prompt_tokens"] > 0
