"""Endpoints as objects on Databricks' routes: made, changed, versioned, rolled back and deleted, with no secret read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.providers import PROVIDERS
from gateway.security.sealing import provider_subject

PATH = "/api/2.0/serving-endpoints"
LOCAL = {"name": "here", "entity_name": "mixtral-demo"}
SECRET = "sk-never-shown-again-0123456789"


def external(provider: str, config: dict[str, Any], name: str = "theirs", **more: Any) -> dict[str, Any]:
    field = {"custom": "custom_provider"}.get(provider, provider.replace("-", "_")) + "_config"
    model = {"name": "big-model", "provider": provider, "task": "llm/v1/chat", field: config}
    return {"name": name, "external_model": model, **more}


EVERY_PROVIDER = {
    "openai": {"openai_api_key_plaintext": SECRET},
    "azure": {
        "openai_api_type": "azure", "openai_api_base": "https://res.openai.azure.com", "openai_api_version": "2024-10-21",
        "openai_deployment_name": "mine", "openai_api_key_plaintext": SECRET,
    },
    "anthropic": {"anthropic_api_key_plaintext": SECRET},
    "cohere": {"cohere_api_key_plaintext": SECRET},
    "amazon-bedrock": {
        "aws_region": "us-east-1", "bedrock_provider": "anthropic", "aws_access_key_id_plaintext": "AKIA0123456789ABCDEF",
        "aws_secret_access_key_plaintext": SECRET,
    },
    "ai21labs": {"ai21labs_api_key_plaintext": SECRET},
    "palm": {"palm_api_key_plaintext": SECRET},
    "databricks-model-serving": {
        "databricks_workspace_url": "https://one.cloud.databricks.com", "databricks_api_token_plaintext": SECRET,
    },
    "custom": {"custom_provider_url": "https://models.example.com/v1", "bearer_token_auth": {"token_plaintext": SECRET}},
}  # fmt: skip


ADDRESSES = {
    "azure": "https://res.openai.azure.com/openai/v1",
    "amazon-bedrock": "https://bedrock-runtime.us-east-1.amazonaws.com",
    "ai21labs": "https://api.ai21.com/studio/v1",
    "databricks-model-serving": "https://one.cloud.databricks.com/serving-endpoints",
    "custom": "https://models.example.com/v1",
}
"""Where calls go; of the others where everybody finds them."""


async def create(deployment: Any, name: str, *entities: Any, as_: str = "admin", **more: Any) -> Any:
    traffic = more.pop("traffic", None)
    config = {"served_entities": list(entities)} | (
        {"traffic_config": {"routes": traffic}} if traffic else {}
    )
    return await deployment.ask("POST", PATH, as_, json={"name": name, "config": config, **more})


def routes(**shares: int) -> list[dict[str, Any]]:
    return [{"served_entity_name": name, "traffic_percentage": share} for name, share in shares.items()]


async def test_every_provider_is_taken_and_no_credential_is_ever_read_back(deployment: Any) -> None:
    for provider, config in EVERY_PROVIDER.items():
        entity = external("openai" if provider == "azure" else provider, config)
        made = await create(deployment, f"of-{provider}", entity)
        assert made.status_code == 200, made.text
        shown = made.json()
        model = shown["config"]["served_entities"][0]["external_model"]
        assert (model["name"], model["provider"]) == ("big-model", entity["external_model"]["provider"])
        told = made.text + (await deployment.ask("GET", f"{PATH}/of-{provider}")).text
        told += (await deployment.ask("GET", "/admin/v1/audit?limit=20")).text
        assert SECRET not in told
        assert (shown["state"], shown["permission_level"]) == (
            {"ready": "READY", "config_update": "NOT_UPDATING"},
            "CAN_MANAGE",
        )
        entity = deployment.catalog.snapshot.endpoints[f"of-{provider}"].entities[0]
        assert entity.account is not None and entity.account.sealed
        # Azure takes the deployment's name for the model's.
        assert entity.model == ("mine" if provider == "azure" else "big-model")
        assert entity.base_url == ADDRESSES.get(provider, PROVIDERS[entity.provider].base_url)
        subject = provider_subject(entity.account.id, entity.account.base_url)
        (held,) = (deployment.control.sealing.open(each, subject) for each in entity.account.sealed)
        assert held.decode() == (f"AKIA0123456789ABCDEF:{SECRET}" if provider == "amazon-bedrock" else SECRET)
        assert (await deployment.ask("DELETE", f"{PATH}/of-{provider}")).json() == {}
    async with deployment.configuration.reading() as connection:
        from sqlalchemy import func, select

        from gateway.store.tables.providers import provider_secrets

        assert await connection.scalar(select(func.count()).select_from(provider_secrets)) == 0


async def test_a_reference_names_a_variable_and_a_credential_stays_with_its_address(deployment: Any) -> None:
    made = await create(
        deployment, "kept", external("openai", {"openai_api_key": "{{secrets/team/openai-key}}"})
    )
    assert made.status_code == 200, made.text

    def account() -> Any:
        return deployment.catalog.snapshot.endpoints["kept"].entities[0].account

    assert (account().source, account().reference) == (
        "environment",
        "WEIGHBRIDGE_CREDENTIAL_TEAM_OPENAI_KEY",
    )
    config = {"served_entities": [external("openai", {}, scale_to_zero_enabled=True)]}
    again = await deployment.ask("PUT", f"{PATH}/kept/config", json=config)
    assert again.status_code == 200, again.text
    assert account() is not None
    assert again.json()["config"]["served_entities"][0]["scale_to_zero_enabled"] is True
    elsewhere = external("openai", {"openai_api_base": "https://elsewhere.example.com/v1"})
    moved = await deployment.ask("PUT", f"{PATH}/kept/config", json={"served_entities": [elsewhere]})
    assert moved.status_code == 200, moved.text
    assert account() is None
    for number in (1, 2):
        given = {
            "openai_api_base": f"https://number{number}.example.com/v1",
            "openai_api_key": f"{{{{secrets/team/key-{number}}}}}",
        }
        both = {"served_entities": [external("openai", given)]}
        moved = await deployment.ask("PUT", f"{PATH}/kept/config", json=both)
        assert moved.status_code == 200, moved.text
        assert account().reference == f"WEIGHBRIDGE_CREDENTIAL_TEAM_KEY_{number}"


async def test_a_configuration_is_split_updated_and_rolled_back(deployment: Any) -> None:
    made = await create(
        deployment, "split", LOCAL, {**LOCAL, "name": "there"}, traffic=routes(here=70, there=30),
        tags=[{"key": "team", "value": "a"}], description="for tests",
    )  # fmt: skip
    assert made.status_code == 200, made.text
    first = made.json()
    assert (first["config"]["config_version"], first["description"]) == (1, "for tests")
    assert [each["traffic_percentage"] for each in first["config"]["traffic_config"]["routes"]] == [70, 30]
    endpoint = deployment.catalog.snapshot.endpoints["split"]
    assert endpoint.fallbacks == (), "nobody has asked for fallbacks"
    ids = {each.name: each.id for each in endpoint.entities}

    only = {"served_entities": [{**LOCAL, "name": "renamed"}]}
    second = (await deployment.ask("PUT", f"{PATH}/split/config", json=only)).json()
    assert second["config"]["config_version"] == 2
    assert deployment.catalog.snapshot.endpoints["split"].entities[0].id in ids.values(), (
        "its price is still its own"
    )

    path = f"/admin/v1/endpoints/{first['id']}"
    found = (await deployment.ask("GET", f"{path}/versions")).json()["items"]
    assert [(each["config_version"], len(each["served_entities"])) for each in found] == [(2, 1), (1, 2)]
    tag = (await deployment.ask("GET", path)).headers["etag"]
    for number, status in ((9, 404), (2, 400)):
        answer = await deployment.ask(
            "POST", f"{path}/rollback", json={"config_version": number}, if_match=tag
        )
        assert answer.status_code == status, answer.text
    back = await deployment.ask("POST", f"{path}/rollback", json={"config_version": 1}, if_match=tag)
    assert back.status_code == 200, back.text
    assert back.json()["config_version"] == 3
    again = deployment.catalog.snapshot.endpoints["split"]
    assert dict(again.split) == {"here": 70, "there": 30}
    assert {each.name: each.id for each in again.entities} == ids


async def test_a_roll_back_brings_back_how_it_was_called_and_a_credential_for_its_own_address_alone(
    deployment: Any,
) -> None:
    async def provider(name: str, base_url: str) -> Any:
        wanted = {
            "name": name, "provider": "openai-compatible", "base_url": base_url, "credential": {"secret": SECRET},
        }  # fmt: skip
        made = await deployment.ask("POST", "/admin/v1/providers", json=wanted)
        assert made.status_code == 201, made.text
        return made.json()["id"]

    def entity(at: str, **more: Any) -> dict[str, Any]:
        return {
            "name": "theirs", "kind": "external", "provider": "openai-compatible", "model": "m", "base_url": at, **more
        }  # fmt: skip

    async def change(**more: Any) -> Any:
        answer = await deployment.ask("PATCH", path, json=more, if_match="*")
        assert answer.status_code == 200, answer.text

    async def back_to(number: int) -> Any:
        answer = await deployment.ask(
            "POST", f"{path}/rollback", json={"config_version": number}, if_match="*"
        )
        assert answer.status_code == 200, answer.text
        (found,) = deployment.catalog.snapshot.endpoints["back"].entities
        return found

    here, there = "https://here.example.com/v1", "https://there.example.com/v1"
    first, second = await provider("first", here), await provider("second", there)
    called: dict[str, Any] = {"concurrency": 3, "replicas": ["https://here.example.com/v2"]}
    made = await deployment.ask(
        "POST",
        "/admin/v1/endpoints",
        json={
            "name": "back",
            "served_entities": [entity(here, calling=called, options={"region": "r1"}, credential_id=first)],
        },
    )
    assert made.status_code == 201, made.text
    path = f"/admin/v1/endpoints/{made.json()['id']}"
    # Nothing said of how it is called: what was said before must not stay.
    await change(served_entities=[entity(there, credential_id=second)])
    was = await back_to(1)
    assert (was.base_url, was.rules.concurrency) == (here, 3)
    assert was.rules.replicas == tuple(called["replicas"])
    assert dict(was.options) == {"region": "r1"}
    assert was.account is not None and was.account.base_url == here
    # One more address is another one: what was given for the others does not pay there.
    await change(
        served_entities=[entity(here, calling={**called, "replicas": [there]}, options={"region": "r1"})]
    )
    (moved,) = deployment.catalog.snapshot.endpoints["back"].entities
    assert moved.account is None
    # Back at an address whose provider has moved since: nothing of it comes along.
    answer = await deployment.ask(
        "PATCH", f"/admin/v1/providers/{second}", json={"base_url": "https://far.example.com"}, if_match="*"
    )
    assert (answer.status_code, answer.json()["credential"]) == (200, "none")
    stood = await back_to(2)
    assert (stood.base_url, stood.rules.concurrency, stood.account) == (there, 0, None)
    assert not stood.options
    assert (await back_to(1)).account is not None
    async with deployment.configuration.reading() as connection:
        from sqlalchemy import select

        from gateway.store.tables.providers import provider_secrets

        held = (await connection.execute(select(provider_secrets.c.provider_id))).scalars().all()
    assert [str(each) for each in held if str(each) in (first, second)] == [first]


async def test_features_are_set_as_a_whole_and_fallbacks_follow_the_list(deployment: Any) -> None:
    await create(deployment, "featured", LOCAL, {**LOCAL, "name": "second"})
    wanted = {
        "fallback_config": {"enabled": True},
        "usage_tracking_config": {"enabled": True},
        "inference_table_config": {"enabled": True, "catalog_name": "main", "schema_name": "logs"},
        "guardrails": {"input": {"pii": {"behavior": "BLOCK"}, "safety": True}},
        "rate_limits": [{"calls": 7, "key": "endpoint", "renewal_period": "minute"}],
    }
    answer = await deployment.ask("PUT", f"{PATH}/featured/ai-gateway", json=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.json() == wanted
    assert deployment.catalog.snapshot.endpoints["featured"].fallbacks == ("here", "second")
    shown = (await deployment.ask("GET", f"{PATH}/featured")).json()["ai_gateway"]
    assert shown == wanted
    less = (await deployment.ask("PUT", f"{PATH}/featured/ai-gateway", json={})).json()
    assert less["fallback_config"] == {"enabled": False}
    assert "guardrails" not in less
    assert less["rate_limits"] == wanted["rate_limits"], "left out, they stay"


async def test_tags_are_added_and_deleted_one_by_one(deployment: Any) -> None:
    await create(deployment, "tagged", LOCAL, tags=[{"key": "a", "value": "1"}, {"key": "b"}])
    change = {"add_tags": [{"key": "c", "value": "3"}, {"key": "a", "value": "2"}], "delete_tags": ["b"]}
    answer = await deployment.ask("PATCH", f"{PATH}/tagged/tags", json=change)
    assert answer.json() == {"tags": [{"key": "a", "value": "2"}, {"key": "c", "value": "3"}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"config": {"served_entities": []}}, "at least one"),
        ({"config": {"served_entities": [LOCAL], "auto_capture_config": {}}}, "auto_capture_config"),
        ({"config": {"served_entities": [{**LOCAL, "environment_vars": {}}]}}, "environment_vars"),
        ({"config": {"served_entities": [LOCAL]}, "route_optimized": True}, "route_optimized"),
        ({"config": {"served_entities": [LOCAL], "traffic_config": {"routes": routes(nobody=100)}}}, "nobody"),
        ({"config": {"served_entities": [LOCAL], "traffic_config": {"routes": routes(here=60)}}}, "60"),
        ({"config": {"served_entities": [external("openai", {"openai_api_key": "a", "openai_api_key_plaintext": "b"})]}}, "both"),
        ({"config": {"served_entities": [external("openai", {"api_base": "https://x"})]}}, "api_base"),
        ({"config": {"served_entities": [external("anthropic", {}) | {"entity_name": "m"}]}}, "either"),
        ({"config": {"served_entities": [external("custom", {"custom_provider_url": "http://169.254.169.254/"})]}}, "169.254"),
        ({"config": {"served_entities": [external("custom", {"custom_provider_url": "https://[::ffff:127.0.0.1]/"})]}}, "127.0.0.1"),
        ({"config": {"served_entities": [{**LOCAL, "name": "a b"}]}}, "name"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_and_says_what(deployment: Any, body: Any, param: str) -> None:
    answer = await deployment.ask("POST", PATH, json={"name": "refused", **body})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), answer.text
    assert param in answer.json()["message"]
    assert "refused" not in deployment.catalog.snapshot.endpoints


async def test_a_name_that_is_taken_is_told_in_databricks_words(deployment: Any) -> None:
    assert (await create(deployment, "taken", LOCAL)).status_code == 200
    again = await create(deployment, "Taken", LOCAL)
    assert (again.status_code, again.json()["error_code"]) == (400, "RESOURCE_ALREADY_EXISTS")


async def test_managers_change_what_they_manage_and_nobody_else_does(deployment: Any) -> None:
    made = (await create(deployment, "managed", LOCAL)).json()
    user = await deployment.made("/admin/v1/users", {"name": "mona"})
    deployment.keys["mona"] = (await deployment.made("/admin/v1/keys", {"principal_id": user["id"]}))["key"]
    config = {"served_entities": [{**LOCAL, "workload_size": "Small"}]}
    calls = [
        ("PUT", f"{PATH}/managed/config", config),
        ("PATCH", f"{PATH}/managed/tags", {"add_tags": [{"key": "x"}]}),
        ("PUT", f"{PATH}/managed/ai-gateway", {}),
        ("DELETE", f"{PATH}/managed", None),
    ]
    for level in (None, "CAN_QUERY"):
        if level is not None:
            grant = {"access_control_list": [{"user_name": "mona", "permission_level": level}]}
            await deployment.ask("PATCH", f"/api/2.0/permissions/serving-endpoints/{made['id']}", json=grant)
        for method, path, body in calls:
            answer = await deployment.ask(method, path, "mona", json=body)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED"), (
                method,
                path,
            )
    grant = {"access_control_list": [{"user_name": "mona", "permission_level": "CAN_MANAGE"}]}
    await deployment.ask("PATCH", f"/api/2.0/permissions/serving-endpoints/{made['id']}", json=grant)
    assert (await create(deployment, "hers", LOCAL, as_="mona")).status_code == 403
    unpriced = {"served_entities": [{"name": "other", "entity_name": "another-local-model"}]}
    assert (await deployment.ask("PUT", f"{PATH}/managed/config", "mona", json=unpriced)).status_code == 403
    for method, path, body in calls:
        answer = await deployment.ask(method, path, "mona", json=body)
        assert answer.status_code == 200, (method, path, answer.text)
    assert json.loads(answer.text) == {}
