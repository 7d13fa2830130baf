"""Fields that requests of every kind share: checked alike, refused alike, with the field named.

Nothing is dropped in silence. What would reach into an engine or another host is refused whatever the upstream is; what
the gateway consumes itself never goes on.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import BadRequest

MAX_OUTPUT = 1_000_000
CONSUMED = frozenset({"metadata", "user", "store", "usage_context", "client_request_id"})

# RELIABILITY: clients never choose a host, a credential, a template or an engine's backend.
_FORBIDDEN = frozenset(
    {
        "api_base", "base_url", "api_key", "api_version", "api_type", "extra_headers", "extra_body", "extra_query",
        "headers", "chat_template", "chat_template_kwargs", "chat_template_content_format", "guided_json",
        "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_whitespace_pattern",
        "structured_outputs", "prompt_embeds", "priority", "cache_salt", "mm_processor_kwargs", "kv_transfer_params",
        "vllm_xargs", "logits_processors", "documents", "lora_request", "request_id", "best_of", "use_beam_search",
        "data_parallel_rank", "media_io_kwargs", "add_generation_prompt", "continue_final_message", "prompt_logprobs",
    }
)  # fmt: skip


def unknown_fields(body: dict[str, Any], known: frozenset[str]) -> tuple[str, ...]:
    """Fields that are not known here, none of them forbidden."""
    forbidden = body.keys() & _FORBIDDEN
    if forbidden:
        name = min(forbidden)
        raise BadRequest(
            f"The field {name!r} is not accepted; remove it.", param=name, code="unsupported_field"
        )
    unknown = tuple(sorted(body.keys() - known))
    for name in unknown:
        if name.lower() in known:
            raise BadRequest(
                f"The field {name!r} must be written {name.lower()!r}.", param=name, code="duplicate_key"
            )
    return unknown


def endpoint_named(body: dict[str, Any], model: str | None) -> str:
    """The endpoint: of the path where it names one, else of `model`; raises BadRequest."""
    named = body.get("model")
    if model is None:
        if type(named) is not str or not named:
            raise BadRequest(
                "'model' must name an endpoint; GET /v1/models lists those you may query.", param="model"
            )
        return named
    if named is not None and type(named) is not str:
        raise BadRequest("'model' must be a string.", param="model")
    return model


def consumed(body: dict[str, Any]) -> tuple[dict[str, str], str | None, str | None]:
    """(tags, end user, the client's own id) of the fields that the gateway consumes; raises BadRequest."""
    tags: dict[str, str] = {}
    for name in ("metadata", "usage_context"):
        given = body.get(name)
        if given is None:
            continue
        if type(given) is not dict or len(given) > 16:
            raise BadRequest(f"{name!r} must be an object of at most 16 texts.", param=name)
        for key, value in given.items():
            if type(value) is not str or len(value) > 512 or len(key) > 64:
                raise BadRequest(
                    f"'{name}.{key[:64]}' must be a text of at most 512 characters.",
                    param=f"{name}.{key[:64]}",
                )
            tags[key] = value
    if "store" in body and body["store"] is not None:
        flag(body, "store")
    return tags, text(body, "user", 256), text(body, "client_request_id", 256)


def bytes_of(text: str) -> int:
    """Its length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def flag(body: dict[str, Any], name: str, prefix: str = "") -> bool:
    """A boolean, false where it is not given; raises BadRequest."""
    value = body.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise BadRequest(f"'{prefix}{name}' must be true or false.", param=prefix + name)
    return value


def whole(body: dict[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number in its range; raises BadRequest."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name!r} must be a whole number from {low} to {high:,}.", param=name)
    return value


def number(body: dict[str, Any], name: str, low: float, high: float) -> None:
    """Check a number that is given; raises BadRequest."""
    value = body[name]
    if value is not None and (type(value) not in (int, float) or not low <= value <= high):
        raise BadRequest(f"{name!r} must be a number from {low} to {high}.", param=name)


def text(body: dict[str, Any], name: str, most: int) -> str | None:
    """A short text; raises BadRequest."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > most:
        raise BadRequest(f"{name!r} must be a text of at most {most} characters.", param=name)
    return value


def typed(body: dict[str, Any], name: str, kind: type, what: str) -> Any:
    """A value of that type; raises BadRequest."""
    value = body[name]
    if type(value) is not kind:
        raise BadRequest(f"{name!r} must be {what}.", param=name)
    return value
