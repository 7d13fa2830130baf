"""One table of causes, three dialects: status, body and headers as each client understands them."""

from __future__ import annotations

import msgspec
import pytest

from gateway import errors as e
from gateway.http.errors import Dialect, dialect_of, error_frame, rendered

DETAIL = e.LimitDetail("l1", "total_tokens", "user 'ann'", 1000, 12, 400, "minute", 1_700_000_000_000)
SOON = e.LimitExceeded(
    "Limit.", DETAIL, retry_after_seconds=7, headers=[(b"x-ratelimit-limit-tokens", b"1000")]
)
LATER = e.LimitExceeded("Limit.", DETAIL, retry_after_seconds=3600, headers=[])
BUDGET = e.BudgetExhausted("Budget.", DETAIL, headers=[])

TABLE = [
    (e.BadRequest("x"), 400, "invalid_request", 400, "INVALID_PARAMETER_VALUE"),
    (e.TooLarge("x"), 413, "request_too_large", 400, "INVALID_PARAMETER_VALUE"),
    (e.UnsupportedMedia("x"), 415, "unsupported_media_type", 400, "INVALID_PARAMETER_VALUE"),
    (e.Unauthenticated(), 401, "invalid_api_key", 401, "UNAUTHENTICATED"),
    (e.Forbidden("x"), 403, "permission_denied", 403, "PERMISSION_DENIED"),
    (e.NotFound("x", code="model_not_found"), 404, "model_not_found", 404, "RESOURCE_DOES_NOT_EXIST"),
    (SOON, 429, "rate_limit_exceeded", 429, "REQUEST_LIMIT_EXCEEDED"),
    (LATER, 429, "insufficient_quota", 403, "PERMISSION_DENIED"),
    (BUDGET, 429, "insufficient_quota", 403, "PERMISSION_DENIED"),
    (e.Unavailable("x"), 503, "temporarily_unavailable", 503, "TEMPORARILY_UNAVAILABLE"),
    (e.OutOfService("x"), 503, "out_of_service", 400, "BAD_REQUEST"),
    (e.UpstreamFailed("x"), 502, "upstream_failed", 500, "INTERNAL_ERROR"),
    (e.UpstreamTimeout("x"), 504, "upstream_timeout", 504, "DEADLINE_EXCEEDED"),
    (e.NotStored("x"), 504, "not_stored", 504, "DEADLINE_EXCEEDED"),
    (e.IdempotencyConflict("other_body"), 422, "idempotency_other_body", 400, "INVALID_PARAMETER_VALUE"),
    (e.IdempotencyConflict("in_flight"), 409, "idempotency_in_flight", 409, "RESOURCE_CONFLICT"),
    (e.IdempotencyConflict("already_completed"), 409, "already_completed", 409, "RESOURCE_CONFLICT"),
]
KNOWN_TO_DATABRICKS = {400, 401, 403, 404, 409, 429, 499, 500, 501, 503, 504}


@pytest.mark.parametrize(("error", "status", "code", "databricks", "error_code"), TABLE)
def test_each_cause_has_its_status_and_code_in_every_dialect(
    error: e.GatewayError, status: int, code: str, databricks: int, error_code: str
) -> None:
    got, headers, body = rendered(error, Dialect.OPENAI, "r1")
    inner = msgspec.json.decode(body)["error"]
    assert (got, inner["code"], inner["request_id"]) == (status, code, "r1")
    assert (b"x-request-id", b"r1") in headers
    got, _, body = rendered(error, Dialect.DATABRICKS, "r1")
    decoded = msgspec.json.decode(body)
    assert (got, decoded["error_code"]) == (databricks, error_code)
    assert got in KNOWN_TO_DATABRICKS
    assert not {"error", "detail"} & decoded.keys()
    got, headers, body = rendered(error, Dialect.ANTHROPIC, "r1")
    decoded = msgspec.json.decode(body)
    assert (got, decoded["type"], decoded["request_id"]) == (status, "error", "r1")
    assert (b"request-id", b"r1") in headers


def test_only_a_limit_that_resets_soon_asks_for_another_try() -> None:
    _, headers, body = rendered(SOON, Dialect.OPENAI, "r")
    assert (b"retry-after", b"7") in headers
    assert (b"x-ratelimit-limit-tokens", b"1000") in headers
    limit = msgspec.json.decode(body)["error"]["limit"]
    assert (limit["limit"], limit["remaining"], limit["scope"]) == ("l1", 12, "user 'ann'")
    for error in (LATER, BUDGET):
        _, headers, _ = rendered(error, Dialect.OPENAI, "r")
        assert (b"x-should-retry", b"false") in headers
        assert b"retry-after" not in dict(headers)


def test_when_to_try_again_is_said_in_every_dialect() -> None:
    busy = e.Unavailable("x", retry_after_seconds=4)
    for dialect in Dialect:
        for error, seconds in ((SOON, b"7"), (busy, b"4")):
            assert dict(rendered(error, dialect, "r")[1])[b"retry-after"] == seconds


def test_a_terminal_frame_is_an_error_to_each_dialects_clients() -> None:
    error = e.UpstreamFailed("It broke.")
    assert error_frame(error, Dialect.OPENAI, "r").startswith(b'data: {"error":')
    databricks = msgspec.json.decode(error_frame(error, Dialect.DATABRICKS, "r").removeprefix(b"data: "))
    assert databricks["error"]["message"] == databricks["message"] == "It broke."
    assert error_frame(error, Dialect.ANTHROPIC, "r").startswith(b"event: error\ndata: ")


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", Dialect.OPENAI),
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/serving-endpoints/x/invocations", Dialect.DATABRICKS),
        ("/api/2.0/nothing", Dialect.DATABRICKS),
        ("/admin/v1/users", Dialect.OPENAI),
    ],
)
def test_the_frameworks_own_answers_speak_the_paths_dialect(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect
