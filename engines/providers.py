"""The providers, as data: what each speaks, where it is, how it is paid for a call's way in, and in which words.

Those of OpenAI's family differ by nothing but this table. What a provider supports is what its own pages and types
say; docs/providers.md shows it, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

RESPONSES_OPTION = "responses"
"""The option with which an entity says whether its address speaks OpenAI's Responses: `yes` or `no`."""
Dialect = Literal["openai", "anthropic", "gemini", "bedrock", "cohere"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One kind of provider."""

    name: str
    title: str
    dialect: Dialect = "openai"
    base_url: str | None = None
    """Where it is unless an entity says otherwise; None: the entity must say."""
    access: str = "bearer"
    """How its credential is told: `bearer`, `aws`, or the header that takes it bare."""
    headers: tuple[tuple[str, str], ...] = ()
    """What every call carries beside."""
    max_tokens: str = "max_tokens"
    """Its field for the bound of an answer."""
    asks_usage: bool = True
    """Whether it tells the usage of a stream only where `stream_options` asks for it."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Fields that it has under another name."""
    needs_credential: bool = True
    responses: tuple[str, ...] = ()
    """Hosts at which it speaks OpenAI's Responses as well, or their ends from a dot on."""
    features: frozenset[str] = frozenset()
    """Of FEATURES, beyond plain chat and streams."""


FEATURES = {
    "tools": "tools",
    "forced": "a named tool forced",
    "single": "one tool at a time",
    "object": "JSON",
    "schema": "JSON of a schema",
    "images": "pictures inline",
    "urls": "pictures by address",
    "reasoning": "reasoning",
    "embeddings": "embeddings",
}
_ALL = frozenset(FEATURES)

_EVERY = (
    Provider(
        "openai",
        "OpenAI",
        base_url="https://api.openai.com/v1",
        max_tokens="max_completion_tokens",
        responses=("api.openai.com", ".api.openai.com"),
        features=_ALL,
    ),
    Provider(
        "azure-openai",
        "Azure OpenAI, v1",
        access="api-key",
        max_tokens="max_completion_tokens",
        responses=(".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
        features=_ALL,
    ),
    Provider(
        "mistral",
        "Mistral",
        base_url="https://api.mistral.ai/v1",
        asks_usage=False,
        renamed=(("seed", "random_seed"),),
        features=_ALL,
    ),
    Provider(
        "groq",
        "Groq",
        base_url="https://api.groq.com/openai/v1",
        max_tokens="max_completion_tokens",
        features=_ALL - {"embeddings"},
    ),
    Provider("together", "Together", base_url="https://api.together.xyz/v1", features=_ALL - {"single"}),
    Provider(
        "fireworks", "Fireworks", base_url="https://api.fireworks.ai/inference/v1", features=_ALL - {"single"}
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        base_url="https://api.deepseek.com/v1",
        features=frozenset({"tools", "forced", "object", "reasoning"}),
    ),
    Provider("xai", "xAI", base_url="https://api.x.ai/v1", features=_ALL - {"embeddings"}),
    Provider("openrouter", "OpenRouter", base_url="https://openrouter.ai/api/v1", features=_ALL),
    Provider(
        "ollama",
        "Ollama",
        needs_credential=False,
        features=frozenset({"tools", "object", "schema", "images", "reasoning", "embeddings"}),
    ),
    Provider("vllm", "vLLM", needs_credential=False, features=_ALL - {"urls"}),
    Provider(
        "databricks",
        "Databricks Model Serving",
        features=_ALL - {"urls", "single"},
    ),
    Provider(
        "openai-compatible",
        "anything that speaks OpenAI's dialect",
        needs_credential=False,
        features=_ALL - {"urls"},
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "anthropic",
        base_url="https://api.anthropic.com/v1",
        access="x-api-key",
        headers=(("anthropic-version", "2023-06-01"),),
        features=frozenset({"tools", "forced", "single", "schema", "images", "urls", "reasoning"}),
    ),
    Provider(
        "gemini",
        "Google Gemini",
        "gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        access="x-goog-api-key",
        features=frozenset(
            {"tools", "forced", "single", "object", "schema", "images", "reasoning", "embeddings"}
        ),
    ),
    Provider(
        "amazon-bedrock",
        "Amazon Bedrock",
        "bedrock",
        access="aws",
        features=frozenset({"tools", "forced", "single", "schema", "images", "reasoning", "embeddings"}),
    ),
    Provider(
        "cohere",
        "Cohere",
        "cohere",
        base_url="https://api.cohere.com/v2",
        features=frozenset(
            {"tools", "forced", "single", "object", "schema", "images", "urls", "reasoning", "embeddings"}
        ),
    ),
)
PROVIDERS = {each.name: each for each in _EVERY}
_COMPATIBLE = PROVIDERS["openai-compatible"]


def provider_named(name: str) -> Provider:
    """The provider of that name; a name of nobody's is taken for one that speaks OpenAI's dialect."""
    return PROVIDERS.get(name, _COMPATIBLE)


def speaks_responses(provider: Provider, address: str, options: Mapping[str, str]) -> bool:
    """Whether Responses pass through to an entity: as its `responses` option says, else as is known of its address."""
    said = options.get(RESPONSES_OPTION)
    if said is not None or provider.dialect != "openai":
        return said == "yes" and provider.dialect == "openai"
    host = urlsplit(address).hostname or ""
    return any(host.endswith(each) if each.startswith(".") else host == each for each in provider.responses)


def option_fault(provider: Provider, options: Mapping[str, str]) -> str | None:
    """What is wrong with what an entity says of its provider, None where nothing is."""
    said = options.get(RESPONSES_OPTION)
    if said is None:
        return None
    if provider.dialect != "openai":
        return f"{provider.title} speaks no Responses; leave options.{RESPONSES_OPTION} out"
    return None if said in ("yes", "no") else f"options.{RESPONSES_OPTION} is yes or no"
