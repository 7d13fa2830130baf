"""GatewayError -> status, headers and body, by dialect: the one place that renders errors.

OpenAI: `{"error": {...}}`. Databricks: `{"error_code", "message"}` at top level, with neither `error` nor `detail`,
as MLflow takes its status from `error_code`. Anthropic: `{"type": "error", "error": {...}, "request_id"}`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from gateway.errors import BudgetExhausted, GatewayError, LimitExceeded

_encode = msgspec.json.Encoder().encode
Headers = list[tuple[bytes, bytes]]


class Dialect(Enum):
    """Whose error shapes a route speaks."""

    OPENAI = "openai"
    DATABRICKS = "databricks"
    ANTHROPIC = "anthropic"


def dialect_of(path: str) -> Dialect:
    """The dialect of a path, for answers of the framework itself."""
    if path.startswith(("/v1/messages", "/ai-gateway/anthropic")):
        return Dialect.ANTHROPIC
    if path.startswith(("/serving-endpoints", "/api/2.0", "/endpoints", "/ai-gateway/mlflow")):
        return Dialect.DATABRICKS
    return Dialect.OPENAI


def rendered(error: GatewayError, dialect: Dialect, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal."""
    status = error.databricks_status if dialect is Dialect.DATABRICKS else error.status
    body = _encode(_body(error, dialect, request_id))
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if dialect is Dialect.ANTHROPIC:
        headers.append((b"request-id", request_id.encode()))
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if isinstance(error, (LimitExceeded, BudgetExhausted)):
        headers += error.headers
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, body


def error_frame(error: GatewayError, dialect: Dialect, request_id: str) -> bytes:
    """A stream's terminal event after its head was sent."""
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + _encode(_body(error, dialect, request_id)) + b"\n\n"
    body = _body(error, Dialect.OPENAI, request_id)
    if dialect is Dialect.DATABRICKS:
        # OpenAI's SDK raises on `error`; MLflow hands the object to its user, who finds Databricks' own fields.
        body |= {"error_code": error.databricks_code, "message": error.message}
    return b"data: " + _encode(body) + b"\n\n"


def _body(error: GatewayError, dialect: Dialect, request_id: str) -> dict[str, Any]:
    detail = error.detail if isinstance(error, (LimitExceeded, BudgetExhausted)) else None
    if dialect is Dialect.DATABRICKS:
        body: dict[str, Any] = {
            "error_code": error.databricks_code,
            "message": error.message,
            "request_id": request_id,
            "code": error.code,
        }
        if detail is not None:
            body["limit"] = detail
        return body
    if dialect is Dialect.ANTHROPIC:
        inner: dict[str, Any] = {"type": error.anthropic_type, "message": error.message}
        if detail is not None:
            inner["limit"] = detail
        return {"type": "error", "error": inner, "request_id": request_id}
    inner = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }
    if detail is not None:
        inner["limit"] = detail
    return {"error": inner}
