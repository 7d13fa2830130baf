"""OpenAPI of the data plane: its handlers are raw ASGI, so they are described here and merged into the document."""

from __future__ import annotations

from typing import Any

from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    Paths,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

_CHAT: dict[str, Any] = {
    "model": "databricks-mixtral-8x7b-instruct",
    "messages": [{"role": "user", "content": "What is a mixture of experts?"}],
    "max_tokens": 64,
    "temperature": 0,
}
_TEXT: dict[str, Any] = {
    "model": "databricks-mixtral-8x7b-instruct",
    "prompt": "A mixture of experts is",
    "max_tokens": 32,
}
_RESPONSE: dict[str, Any] = {
    "model": "databricks-mixtral-8x7b-instruct",
    "input": "What is a mixture of experts?",
    "max_output_tokens": 64,
    "store": False,
}
_EMBEDDING: dict[str, Any] = {
    "model": "an-embeddings-endpoint",
    "input": ["What is a mixture of experts?", "How is a request billed?"],
    "encoding_format": "float",
}
_MESSAGE: dict[str, Any] = {
    "model": "databricks-mixtral-8x7b-instruct",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "What is a mixture of experts?"}],
}
_CALLS = {
    "/v1/chat/completions": ("Chat completion, plain or streamed (OpenAI)", _CHAT),
    "/v1/completions": ("Text completion, plain or streamed (OpenAI)", _TEXT),
    "/v1/responses": (
        "Response, plain or streamed; kept only where the endpoint keeps them (OpenAI)",
        _RESPONSE,
    ),
    "/v1/embeddings": ("Embeddings of texts or token ids (OpenAI)", _EMBEDDING),
    "/v1/messages": ("Message, plain or streamed (Anthropic)", _MESSAGE),
    "/v1/messages/count_tokens": (
        "Count a message's input (Anthropic)",
        {k: v for k, v in _MESSAGE.items() if k != "max_tokens"},
    ),
    "/serving-endpoints/{name}/invocations": (
        "Call an endpoint (Databricks, MLflow)",
        {k: v for k, v in _CHAT.items() if k != "model"},
    ),
    "/serving-endpoints/chat/completions": ("Chat completion (Databricks' OpenAI client)", _CHAT),
    "/serving-endpoints/completions": ("Text completion (Databricks' OpenAI client)", _TEXT),
    "/serving-endpoints/responses": ("Response (Databricks' OpenAI client)", _RESPONSE),
    "/serving-endpoints/embeddings": ("Embeddings (Databricks' OpenAI client)", _EMBEDDING),
    "/ai-gateway/mlflow/v1/chat/completions": ("Chat completion (Databricks' AI Gateway)", _CHAT),
    "/ai-gateway/mlflow/v1/embeddings": ("Embeddings (Databricks' AI Gateway)", _EMBEDDING),
    "/ai-gateway/mlflow/v1/responses": ("Response (Databricks' AI Gateway)", _RESPONSE),
    "/ai-gateway/openai/v1/responses": ("Response (Databricks' AI Gateway, OpenAI's dialect)", _RESPONSE),
    "/ai-gateway/anthropic/v1/messages": ("Message (Databricks' AI Gateway, Anthropic's dialect)", _MESSAGE),
    "/openai/deployments/{name}/chat/completions": (
        "Chat completion, plain or streamed (Azure OpenAI)",
        {k: v for k, v in _CHAT.items() if k != "model"},
    ),
    "/openai/deployments/{name}/completions": (
        "Text completion, plain or streamed (Azure OpenAI)",
        {k: v for k, v in _TEXT.items() if k != "model"},
    ),
    "/openai/deployments/{name}/embeddings": (
        "Embeddings of texts or token ids (Azure OpenAI)",
        {k: v for k, v in _EMBEDDING.items() if k != "model"},
    ),
    "/openai/responses": ("Response, plain or streamed (Azure OpenAI)", _RESPONSE),
    "/openai/v1/chat/completions": ("Chat completion, plain or streamed (Azure OpenAI v1)", _CHAT),
    "/openai/v1/completions": ("Text completion, plain or streamed (Azure OpenAI v1)", _TEXT),
    "/openai/v1/embeddings": ("Embeddings of texts or token ids (Azure OpenAI v1)", _EMBEDDING),
    "/openai/v1/responses": ("Response, plain or streamed (Azure OpenAI v1)", _RESPONSE),
}
_STATUSES = {
    "200": "The model's answer; with `stream: true` an event stream: up to `data: [DONE]`, or to the dialect's own last event.",
    "400": "Malformed, or a field that is not accepted; `param` names it.",
    "401": "No credential, or one that does not hold.",
    "403": "CAN_QUERY on the endpoint is missing; on Databricks' routes also an exhausted budget.",
    "404": "There is no such endpoint.",
    "429": "A rate limit (`retry-after`) or a budget (`x-should-retry: false`) has no room; nothing was consumed.",
    "502": "The model's server failed.",
    "503": "The engine is warming up or a store is away; `retry-after` says when to try again.",
    "504": "The model's server did not answer in time.",
}


def describe_calls(paths: Paths) -> None:
    """Add the model calls to a document's paths."""
    for path, (summary, example) in _CALLS.items():
        paths[path] = PathItem(post=_operation(path, summary, example))


def describe_changes(paths: Paths) -> None:
    """Say on every change of the admin API that it takes an Idempotency-Key, or what form it takes."""
    for path, item in paths.items():
        if path.startswith("/admin/v1"):
            for operation in (item.post, item.put, item.patch, item.delete):
                if operation is None:
                    continue
                if operation is item.put and path == _UPLOAD:
                    operation.request_body = _FORM
                    continue
                operation.parameters = [*(operation.parameters or ()), _ONCE]


_UPLOAD = "/admin/v1/adapters/{adapter_name}"
_FORM = RequestBody(
    content={
        "multipart/form-data": OpenAPIMediaType(
            schema=Schema(
                type=OpenAPIType.OBJECT,
                required=["config", "weights"],
                properties={
                    name: Schema(
                        type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=f"PEFT's {file}."
                    )
                    for name, file in (
                        ("config", "adapter_config.json"),
                        ("weights", "adapter_model.safetensors"),
                    )
                },
            )
        )
    },
    required=True,
)
_ONCE = Parameter(
    name="Idempotency-Key",
    param_in="header",
    description="Sent again within 24 hours with the same body, the request gets the first answer and changes nothing.",
    schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255),
    required=False,
    example="7d0f1c1e-create-group-analysts",
)


_HEADERS = [
    Parameter(name=name, param_in="header", description=text, schema=Schema(type=kind), required=False)
    for name, kind, text in (
        ("x-weighbridge-group", OpenAPIType.STRING, "Which of your groups is charged, by name or id."),
        (
            "x-weighbridge-priority",
            OpenAPIType.STRING,
            "`batch` gives way where limits and places are shared.",
        ),
        (
            "x-weighbridge-sticky",
            OpenAPIType.STRING,
            "Calls with the same key get the same side of a traffic split.",
        ),
        (
            "cache-control",
            OpenAPIType.STRING,
            "Of stored answers: `no-cache`, `no-store` or `max-age=60`.",
        ),
        (
            "x-weighbridge-timeout",
            OpenAPIType.NUMBER,
            "Seconds after which the call ends with 504, retries included.",
        ),
    )
]


def _operation(path: str, summary: str, example: dict[str, Any]) -> Operation:
    properties: dict[str, Any] = {name: Schema(examples=[value]) for name, value in example.items()}
    required = [name for name in ("model", "messages", "prompt", "input") if name in example]
    body = OpenAPIMediaType(
        schema=Schema(type=OpenAPIType.OBJECT, properties=properties, required=required), example=example
    )
    named: list[Any] = [
        Parameter(name="name", param_in="path", required=True, schema=Schema(type=OpenAPIType.STRING))
    ]
    return Operation(
        tags=["Calls to models"],
        summary=summary,
        operation_id="call " + path,
        parameters=[*(named if "{name}" in path else ()), *_HEADERS],
        request_body=RequestBody(content={"application/json": body}, required=True),
        responses={status: OpenAPIResponse(description=text) for status, text in _STATUSES.items()},
    )
