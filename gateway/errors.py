"""Every failure that a caller may see, as a tree; http/errors.py alone renders them.

GatewayError
├── BadRequest              malformed, wrong type, unsupported field (400)
│   ├── TooLarge            (413)
│   └── UnsupportedMedia    (415)
├── Unauthenticated         no or wrong credential (401)
├── TooManyFailures         too many wrong credentials from one address (429, retry-after)
├── Forbidden               known, but not allowed (403)
├── NotFound                unknown endpoint, or something that is not the caller's (404)
├── MethodNotAllowed        (405)
├── Conflict                a name that exists, an object that changed meanwhile (409)
├── IdempotencyConflict     same key: other body (422), in flight or already done (409)
├── LimitExceeded           a rate limit; resets within 60 s or later (429)
├── BudgetExhausted         money is spent (429, never retried)
├── Unavailable             warming up, a store away (503, retry-after)
├── OutOfService            no engine, or failed for good (503, never retried)
├── UpstreamFailed          (502)
├── UpstreamTimeout         (504)
└── NotStored               only a stored answer was asked for, and there is none (504, never retried)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class GatewayError(Exception):
    """Base of everything that a caller may be told; `str()` is safe to show."""

    status = 500
    code = "internal_error"
    type = "server_error"
    databricks_status = 500
    databricks_code = "INTERNAL_ERROR"
    anthropic_type = "api_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    retry_after_seconds: int | None = None
    should_retry: bool | None = None


class BadRequest(GatewayError):
    """The request cannot be understood or asks for something that is not offered."""

    status, code, type = 400, "invalid_request", "invalid_request_error"
    databricks_status, databricks_code = 400, "INVALID_PARAMETER_VALUE"
    anthropic_type = "invalid_request_error"


class TooLarge(BadRequest):
    """The body is over the cap."""

    status, code = 413, "request_too_large"
    anthropic_type = "request_too_large"


class UnsupportedMedia(BadRequest):
    """Not JSON, or compressed."""

    status, code = 415, "unsupported_media_type"


class Unauthenticated(GatewayError):
    """No credential, or one that does not hold. One wording for all, so that nothing is learnt from it."""

    status, code, type = 401, "invalid_api_key", "authentication_error"
    databricks_status, databricks_code = 401, "UNAUTHENTICATED"
    anthropic_type = "authentication_error"

    def __init__(
        self,
        message: str = "Incorrect API key provided, or none. Send a key of this gateway as 'Authorization: Bearer <key>'.",
    ) -> None:
        super().__init__(message)


class TooManyFailures(GatewayError):
    """Too many credentials from one address failed; nothing was looked up, so the answer is the same for a right one."""

    status, code, type = 429, "too_many_failed_credentials", "rate_limit_error"
    databricks_status, databricks_code = 429, "REQUEST_LIMIT_EXCEEDED"
    anthropic_type = "rate_limit_error"

    def __init__(self, *, retry_after_seconds: int) -> None:
        super().__init__(
            "Too many credentials from your address failed; wait, then send one that holds. Those that are in use go on."
        )
        self.retry_after_seconds = min(60, max(1, retry_after_seconds))


class Forbidden(GatewayError):
    """The caller is known and lacks a permission, which the message names."""

    status, code, type = 403, "permission_denied", "permission_error"
    databricks_status, databricks_code = 403, "PERMISSION_DENIED"
    anthropic_type = "permission_error"


class NotFound(GatewayError):
    """There is no such thing, or it is not the caller's to know of."""

    status, code, type = 404, "not_found", "invalid_request_error"
    databricks_status, databricks_code = 404, "RESOURCE_DOES_NOT_EXIST"
    anthropic_type = "not_found_error"


class MethodNotAllowed(GatewayError):
    """The path exists and takes other methods."""

    status, code, type = 405, "method_not_allowed", "invalid_request_error"
    databricks_status, databricks_code = 400, "BAD_REQUEST"
    anthropic_type = "invalid_request_error"


class Conflict(GatewayError):
    """The name is taken, or the object changed since it was read."""

    status, code, type = 409, "conflict", "invalid_request_error"
    databricks_status, databricks_code = 409, "RESOURCE_CONFLICT"
    anthropic_type = "invalid_request_error"
    should_retry = False


class IdempotencyConflict(GatewayError):
    """The idempotency key was used: `other_body` (422), `in_flight` or `already_completed` (409)."""

    type = "invalid_request_error"
    anthropic_type = "invalid_request_error"
    should_retry = False

    def __init__(self, reason: str) -> None:
        wording = {
            "other_body": "This Idempotency-Key was used with another body; use a new key for a new request.",
            "in_flight": "The request with this Idempotency-Key is still running; wait for it to end.",
            "already_completed": "The request with this Idempotency-Key has ended and its answer is not stored.",
        }
        super().__init__(
            wording[reason], code=f"idempotency_{reason}" if reason != "already_completed" else reason
        )
        self.status = 422 if reason == "other_body" else 409
        self.databricks_status = 400 if reason == "other_body" else 409
        self.databricks_code = "INVALID_PARAMETER_VALUE" if reason == "other_body" else "RESOURCE_CONFLICT"


@dataclass(frozen=True, slots=True)
class LimitDetail:
    """Which limit refused, in a shape for machines; part of every 429 and 403 for a limit."""

    limit: str
    """Id of the limit or budget."""
    metric: str
    scope: str
    """Whose: `user alice`, `group 3f..`, `endpoint chat`."""
    amount: int
    """The limit's size, in its metric's unit (nano-dollars for money)."""
    remaining: int
    requested: int
    window: str
    resets_at_ms: int


class LimitExceeded(GatewayError):
    """A rate limit has no room; nothing was consumed."""

    decided_at_ms = 0
    """Redis' time of the decision; 0 where it was made without Redis."""
    seen: Sequence[int] = ()
    """What counters showed, draw by draw up to the one that refused; -1 where that was not told."""
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"
    databricks_status, databricks_code = 429, "REQUEST_LIMIT_EXCEEDED"
    anthropic_type = "rate_limit_error"

    def __init__(
        self,
        message: str,
        detail: LimitDetail,
        *,
        retry_after_seconds: int,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.headers = headers
        if retry_after_seconds <= 60:
            self.retry_after_seconds = max(1, retry_after_seconds)
        else:  # SDKs would sleep for it: a limit that resets later is answered like an empty purse
            self.code, self.type = "insufficient_quota", "insufficient_quota"
            self.should_retry = False
            self.databricks_status, self.databricks_code = 403, "PERMISSION_DENIED"


class BudgetExhausted(GatewayError):
    """A budget has no money left for this request; nothing was consumed."""

    decided_at_ms = 0
    """As of a rate limit."""
    seen: Sequence[int] = ()
    status, code, type = 429, "insufficient_quota", "insufficient_quota"
    databricks_status, databricks_code = 403, "PERMISSION_DENIED"
    anthropic_type = "rate_limit_error"
    should_retry = False

    def __init__(self, message: str, detail: LimitDetail, *, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(message)
        self.detail = detail
        self.headers = headers


class Unavailable(GatewayError):
    """A part is away for now; trying again soon is right."""

    status, code, type = 503, "temporarily_unavailable", "server_error"
    databricks_status, databricks_code = 503, "TEMPORARILY_UNAVAILABLE"
    anthropic_type = "overloaded_error"

    def __init__(self, message: str, *, retry_after_seconds: int = 2, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = min(10, max(1, retry_after_seconds))


class OutOfService(GatewayError):
    """No engine is configured, or it has failed for good; trying again does not help."""

    status, code, type = 503, "out_of_service", "server_error"
    databricks_status, databricks_code = 400, "BAD_REQUEST"
    anthropic_type = "api_error"
    should_retry = False


class UpstreamFailed(GatewayError):
    """The model's server failed, refused or answered nonsense; what it said stays here."""

    status, code, type = 502, "upstream_failed", "server_error"
    databricks_status, databricks_code = 500, "INTERNAL_ERROR"


class NotStored(GatewayError):
    """The caller wanted a stored answer or none (`only-if-cached`), and none is stored."""

    status, code, type = 504, "not_stored", "invalid_request_error"
    databricks_status, databricks_code = 504, "DEADLINE_EXCEEDED"
    anthropic_type = "api_error"
    should_retry = False


class UpstreamTimeout(GatewayError):
    """The model's server did not answer in time."""

    status, code, type = 504, "upstream_timeout", "server_error"
    databricks_status, databricks_code = 504, "DEADLINE_EXCEEDED"
    anthropic_type = "timeout_error"
