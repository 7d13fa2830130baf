"""The bytes of vLLM 0.32's OpenAI answers: field by field and in its order, nulls where it writes nulls.

Differences that a reader of trailing usage meets in the real server are kept: the first chunk has prompt_token_ids
after its usage, the last usage chunk has system_fingerprint after it, continuous usage carries an explicit null.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any, Final

import msgspec

from tests.faults.script import Script

FINGERPRINT: Final = "vllm-0.32.0-scripted"
CREATED: Final = 1_764_000_000  # fixed, so that the same script gives the same bytes
encode = msgspec.json.encode


def dumps(value: object) -> str:
    """Compact JSON, as pydantic writes it."""
    return encode(value).decode()


def reported_usage(script: Script, prompt: int, completion: int) -> dict[str, Any] | None:
    """The usage that the upstream claims: true, or as false as the script wants it."""
    match script.usage:
        case "missing" | "null":
            return None
        case "zero":
            prompt, completion = 0, 0
        case "negative":
            prompt, completion = -prompt, -completion
        case "absurd":
            completion = 10**12
        case "disagree":
            completion *= 2
        case "few":
            completion //= 3
        case "many":
            completion *= 100
        case _:
            pass
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if script.usage == "text":
        told = {name: str(count) for name, count in told.items()}
    elif script.usage == "wrong":
        told["completion_tokens"] = True
    return told


def full_usage(script: Script, prompt: int, completion: int) -> dict[str, Any] | None:
    """Usage of a plain answer, with its details (null where vLLM was not asked for them)."""
    usage = reported_usage(script, prompt, completion)
    if usage is not None:
        usage["prompt_tokens_details"] = _prompt_details(script)
        usage["completion_tokens_details"] = _completion_details(script)
    return usage


def final_usage(script: Script, prompt: int, completion: int) -> dict[str, Any] | None:
    """Usage of the last chunk of a stream: details only where there are any."""
    usage = full_usage(script, prompt, completion)
    return usage and _without_nulls(usage)


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    kept = {name: inner for name, inner in value.items() if inner is not None}
    return {name: _without_nulls(inner) if isinstance(inner, dict) else inner for name, inner in kept.items()}


def _prompt_details(script: Script) -> dict[str, Any] | None:
    if script.cached < 0:
        return None
    return {"cached_tokens": script.cached, "created_cache_tokens": None, "multimodal_tokens": None}


def _completion_details(script: Script) -> dict[str, Any] | None:
    return None if script.reasoning < 0 else {"reasoning_tokens": script.reasoning}


def _with_usage(answer: dict[str, Any], script: Script, usage: dict[str, Any] | None) -> None:
    if script.usage != "missing":
        answer["usage"] = usage


def chat_message(content: str | None, tool_calls: list[dict[str, Any]]) -> dict[str, Any]:
    """An assistant message with vLLM's fields."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if tool_calls:
        message["tool_calls"] = tool_calls
    return {**message, "reasoning": None}


def chat_answer(
    id_: str,
    model: str,
    choices: list[tuple[dict[str, Any], str, list[int] | None]],
    script: Script,
    prompt: int,
    completion: int,
) -> bytes:
    """A plain chat answer. A choice is a message, a finish reason and token ids."""
    answer: dict[str, Any] = {
        "id": id_,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": finish,
                "stop_reason": None,
                "token_ids": ids,
                "routed_experts": None,
            }
            for index, (message, finish, ids) in enumerate(choices)
        ],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
    }
    _with_usage(answer, script, full_usage(script, prompt, completion))
    for name in (
        "prompt_logprobs",
        "prompt_token_ids",
        "prompt_text",
        "kv_transfer_params",
        "ec_transfer_params",
    ):
        answer[name] = None
    answer["metrics"] = None
    return encode(answer)


def text_answer(
    id_: str,
    model: str,
    choices: list[tuple[str, str, list[int] | None]],
    script: Script,
    prompt: int,
    completion: int,
) -> bytes:
    """A plain text completion. A choice is a text, a finish reason and token ids."""
    answer: dict[str, Any] = {
        "id": id_,
        "object": "text_completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": index,
                "text": text,
                "logprobs": None,
                "finish_reason": finish,
                "stop_reason": None,
                "token_ids": ids,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
            for index, (text, finish, ids) in enumerate(choices)
        ],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
    }
    _with_usage(answer, script, full_usage(script, prompt, completion))
    return encode({**answer, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None})


def embeddings_answer(
    id_: str, model: str, inputs: list[Any], dimensions: int, prompt: int, *, packed: bool = False
) -> bytes:
    """Unit-less vectors that depend on the text alone."""
    usage = {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0}
    data = [
        {"index": index, "object": "embedding", "embedding": _packed(vector) if packed else vector}
        for index, vector in enumerate(embed(item, dimensions) for item in inputs)
    ]
    usage = {**usage, "prompt_tokens_details": None, "completion_tokens_details": None}
    return encode(
        {"id": id_, "object": "list", "created": CREATED, "model": model, "data": data, "usage": usage}
    )


def embed(text: Any, dimensions: int = 8) -> list[float]:
    """The vector of one input: bytes of a digest, between 0 and 1."""
    digest = hashlib.shake_128(json.dumps(text).encode()).digest(dimensions)
    return [byte / 255 for byte in digest]


def _packed(vector: list[float]) -> str:
    """As base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def error_answer(status: int, message: str = "", type_: str = "", param: str | None = None) -> dict[str, Any]:
    """An error object as vLLM writes it."""
    names = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError", 429: "RateLimitError"}
    kind = type_ or names.get(status, "InternalServerError")
    text = message or {429: "Too many requests", 503: "Service unavailable", 529: "Overloaded"}.get(
        status, "Internal server error"
    )
    return {"error": {"message": text, "type": kind, "param": param, "code": status}}


def models_answer(models: tuple[str, ...]) -> bytes:
    """The list of served models."""
    cards = [
        {
            "id": model,
            "object": "model",
            "created": CREATED,
            "owned_by": "vllm",
            "root": model,
            "parent": None,
            "max_model_len": 32768,
            "permission": [],
        }
        for model in models
    ]
    return encode({"object": "list", "data": cards})
