"""Models of providers in Databricks' words: `external_model` with one configuration for each provider, read and shown.

What is secret goes one way. `{{secrets/scope/key}}` names the variable WEIGHBRIDGE_CREDENTIAL_SCOPE_KEY of the workers'
environment; anything else is the credential itself. Neither is ever shown again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from engines.providers import PROVIDERS
from gateway.errors import BadRequest
from gateway.store.providers import Credential
from policies.catalog import ServedEntity

Text = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Secret = Annotated[str, Meta(min_length=1, max_length=8192, pattern=r"^[^\x00]+$")]
Url = Annotated[str, Meta(max_length=512, pattern=r"^https?://[!-~]+$")]
_REFERENCE = re.compile(r"\{\{secrets/([A-Za-z0-9_.@-]{1,64})/([A-Za-z0-9_.@-]{1,64})\}\}")
_VARIABLE = "WEIGHBRIDGE_CREDENTIAL_"


class _Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider's configuration; a field that is not here is refused."""


class OpenAiConfig(_Config, frozen=True):
    """OpenAI, and Azure OpenAI where `openai_api_type` says so."""

    openai_api_key: Secret | None = None
    openai_api_key_plaintext: Secret | None = None
    openai_api_type: Literal["openai", "azure"] | None = None
    openai_api_base: Url | None = None
    openai_api_version: Text | None = None
    openai_deployment_name: Text | None = None


class AnthropicConfig(_Config, frozen=True):
    """Anthropic."""

    anthropic_api_key: Secret | None = None
    anthropic_api_key_plaintext: Secret | None = None


class CohereConfig(_Config, frozen=True):
    """Cohere."""

    cohere_api_key: Secret | None = None
    cohere_api_key_plaintext: Secret | None = None
    cohere_api_base: Url | None = None


class BedrockConfig(_Config, frozen=True):
    """Amazon Bedrock."""

    aws_region: Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}$")]
    bedrock_provider: Literal[
        "anthropic", "cohere", "ai21labs", "amazon", "ANTHROPIC", "COHERE", "AI21LABS", "AMAZON"
    ]
    aws_access_key_id: Secret | None = None
    aws_access_key_id_plaintext: Secret | None = None
    aws_secret_access_key: Secret | None = None
    aws_secret_access_key_plaintext: Secret | None = None


class Ai21Config(_Config, frozen=True):
    """AI21 Labs."""

    ai21labs_api_key: Secret | None = None
    ai21labs_api_key_plaintext: Secret | None = None


class PalmConfig(_Config, frozen=True):
    """Google's models by an API key."""

    palm_api_key: Secret | None = None
    palm_api_key_plaintext: Secret | None = None


class DatabricksConfig(_Config, frozen=True):
    """Another Databricks workspace."""

    databricks_workspace_url: Url
    databricks_api_token: Secret | None = None
    databricks_api_token_plaintext: Secret | None = None


class BearerAuth(_Config, frozen=True):
    """`Authorization: Bearer`."""

    token: Secret | None = None
    token_plaintext: Secret | None = None


class CustomConfig(_Config, frozen=True):
    """Anything that speaks OpenAI's dialect."""

    custom_provider_url: Url
    bearer_token_auth: BearerAuth | None = None


class ExternalModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's model."""

    name: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
    provider: Literal[
        "ai21labs",
        "anthropic",
        "amazon-bedrock",
        "cohere",
        "custom",
        "databricks-model-serving",
        "openai",
        "palm",
    ]
    task: Literal["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"]
    ai21labs_config: Ai21Config | None = None
    anthropic_config: AnthropicConfig | None = None
    amazon_bedrock_config: BedrockConfig | None = None
    cohere_config: CohereConfig | None = None
    custom_provider_config: CustomConfig | None = None
    databricks_model_serving_config: DatabricksConfig | None = None
    openai_config: OpenAiConfig | None = None
    palm_config: PalmConfig | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """What an external model comes to here."""

    provider: str
    model: str
    """What is asked for there."""
    base_url: str
    options: Mapping[str, str]
    credential: Credential | None
    """None: the one that is there."""


def upstream_of(model: ExternalModel) -> Upstream:
    """The provider, address, options and credential that the model names; raises BadRequest."""
    field = f"{model.provider.replace('-', '_').replace('custom', 'custom_provider')}_config"
    given = [
        name
        for name in model.__struct_fields__
        if name.endswith("_config") and getattr(model, name) is not None
    ]
    if any(name != field for name in given):
        raise BadRequest(
            f"An external model of provider {model.provider!r} takes {field} and no other configuration.",
            param="external_model",
        )
    config: Any = getattr(model, field)
    match config:
        case None if model.provider in ("openai", "anthropic", "cohere", "ai21labs", "palm"):
            raise BadRequest(f"An external model of provider {model.provider!r} takes {field}.", param=field)
        case OpenAiConfig():
            return _openai(model.name, config)
        case AnthropicConfig():
            secret = _secret(config, "anthropic_api_key")
            return Upstream("anthropic", model.name, _known("anthropic"), {}, secret)
        case CohereConfig():
            secret = _secret(config, "cohere_api_key")
            return Upstream("cohere", model.name, config.cohere_api_base or _known("cohere"), {}, secret)
        case BedrockConfig():
            region = config.aws_region
            return Upstream(
                "amazon-bedrock",
                model.name,
                f"https://bedrock-runtime.{region}.amazonaws.com",
                {"region": region, "bedrock_provider": config.bedrock_provider.lower()},
                _key_pair(config),
            )
        case Ai21Config():
            secret = _secret(config, "ai21labs_api_key")
            return Upstream(
                "openai-compatible", model.name, "https://api.ai21.com/studio/v1", {"of": "ai21labs"}, secret
            )
        case PalmConfig():
            return Upstream("gemini", model.name, _known("gemini"), {}, _secret(config, "palm_api_key"))
        case DatabricksConfig():
            address = config.databricks_workspace_url.rstrip("/") + "/serving-endpoints"
            return Upstream("databricks", model.name, address, {}, _secret(config, "databricks_api_token"))
        case CustomConfig():
            bearer = config.bearer_token_auth
            secret = None if bearer is None else _secret(bearer, "token")
            return Upstream("openai-compatible", model.name, config.custom_provider_url, {}, secret)
        case _:
            raise BadRequest(f"An external model of provider {model.provider!r} takes {field}.", param=field)


def shown(entity: ServedEntity, task: str) -> dict[str, Any]:
    """A provider's entity as its managers read it, with nothing in it that pays for a call."""
    options, address = dict(entity.options), entity.base_url or ""
    name, field, config = "custom", "custom_provider_config", {"custom_provider_url": address}
    match entity.provider:
        case "openai":
            name, field, config = (
                "openai",
                "openai_config",
                {"openai_api_base": address, "openai_api_type": "openai"},
            )
        case "azure-openai":
            name, field, config = (
                "openai",
                "openai_config",
                {"openai_api_base": address, "openai_api_type": "azure"},
            )
        case "anthropic":
            name, field, config = "anthropic", "anthropic_config", {}
        case "cohere":
            name, field, config = "cohere", "cohere_config", {"cohere_api_base": address}
        case "amazon-bedrock":
            name, field = "amazon-bedrock", "amazon_bedrock_config"
            config = {
                "aws_region": options.get("region", ""),
                "bedrock_provider": options.get("bedrock_provider", ""),
            }
        case "gemini":
            name, field, config = "palm", "palm_config", {}
        case "databricks":
            name, field = "databricks-model-serving", "databricks_model_serving_config"
            config = {"databricks_workspace_url": address.removesuffix("/serving-endpoints")}
        case _ if options.get("of") == "ai21labs":
            name, field, config = "ai21labs", "ai21labs_config", {}
        case _:
            pass
    config |= {
        each: options[each] for each in _OPENAI_OPTIONS if field == "openai_config" and each in options
    }
    return {"name": options.get("model_name", entity.model), "provider": name, "task": task, field: config}


_OPENAI_OPTIONS = ("openai_api_version", "openai_deployment_name")


def _openai(name: str, config: OpenAiConfig) -> Upstream:
    secret = _secret(config, "openai_api_key")
    options = {name: value for name in _OPENAI_OPTIONS if (value := getattr(config, name)) is not None}
    if config.openai_api_type != "azure":
        return Upstream("openai", name, config.openai_api_base or _known("openai"), options, secret)
    if config.openai_api_base is None:
        raise BadRequest(
            "Azure OpenAI takes openai_api_base, the address of your resource.", param="openai_api_base"
        )
    base = config.openai_api_base.rstrip("/")
    # Azure's v1 API is below the resource, and takes the deployment's name for the model's.
    address = base if "/openai" in base else f"{base}/openai/v1"
    deployed = config.openai_deployment_name or name
    return Upstream("azure-openai", deployed, address, {**options, "model_name": name}, secret)


def _known(name: str) -> str:
    address = PROVIDERS[name].base_url
    assert address is not None
    return address


def _secret(config: Struct, name: str) -> Credential | None:
    """The credential in one of its two fields; None where neither is given."""
    named, plain = getattr(config, name), getattr(config, f"{name}_plaintext")
    if named is not None and plain is not None:
        raise BadRequest(f"Send {name} or {name}_plaintext, not both.", param=name)
    value = plain if named is None else named
    return None if value is None else _credential(value)


def _credential(value: str) -> Credential:
    reference = _REFERENCE.fullmatch(value)
    if reference is None:
        return Credential("stored", value)
    variable = re.sub(r"[^A-Z0-9_]", "_", f"{reference[1]}_{reference[2]}".upper())[:64]
    return Credential("environment", reference=_VARIABLE + variable)


def _key_pair(config: BedrockConfig) -> Credential | None:
    """An AWS access key as the workers read it: the id, a colon, the secret."""
    parts = [_secret(config, "aws_access_key_id"), _secret(config, "aws_secret_access_key")]
    if parts == [None, None]:
        return None
    identity, key = parts
    if identity is None or key is None:
        raise BadRequest(
            "Send aws_access_key_id and aws_secret_access_key together.", param="amazon_bedrock_config"
        )
    if key.source == "environment":
        # One variable holds the whole pair: half a reference would name nothing.
        return key
    if identity.source != "stored":
        raise BadRequest(
            "Send both parts of the AWS key as they are, or both as references.",
            param="amazon_bedrock_config",
        )
    return Credential("stored", f"{identity.secret}:{key.secret}")
