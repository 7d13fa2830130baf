"""What can go wrong upstream, as a tree; `retryable` says whether another entity may be tried before the first byte.

EngineError
├── ConnectFailed     nothing was sent, or the connection died before an answer
├── TimedOut          no connection, no first byte, or silence for too long
├── Refused           a status of 400 or more; `reason` says what it comes to
├── Reported          the upstream said in its stream that it failed
├── Garbled           an answer that is not what the protocol says
└── Unsupported       the request has what this provider cannot be asked; nothing was sent
"""

from __future__ import annotations

from enum import StrEnum

from engines.messages import Count


class Reason(StrEnum):
    """What an upstream's refusal comes to, whatever its words."""

    INVALID = "invalid"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    CREDENTIAL = "credential"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    QUOTA = "quota"
    TIMED_OUT = "timed_out"
    """It gave the call up itself: what it asked in turn took too long."""
    FAILED = "failed"


def reason_of(status: int) -> Reason:
    """What a status alone says."""
    if status in (401, 403):
        return Reason.CREDENTIAL
    if status == 402:
        return Reason.QUOTA
    if status == 404:
        return Reason.NOT_FOUND
    if status == 429:
        return Reason.RATE_LIMITED
    if status in (503, 529):
        return Reason.OVERLOADED
    if status in (408, 504):
        return Reason.TIMED_OUT
    return Reason.INVALID if 400 <= status < 500 and status not in (409, 425) else Reason.FAILED


class EngineError(Exception):
    """Base; the text is for the log and the attempt row, never for a client."""

    retryable = True
    blamed = True
    """Whether the upstream is to blame, so that its circuit hears of it."""
    outcome = "error"
    code = "upstream_error"
    status: int | None = None
    count: Count | None = None
    """What the upstream said it had used, where it said so as it failed."""


class ConnectFailed(EngineError):
    """No connection, TLS trouble, or the connection was reset."""

    code = "upstream_unreachable"


class TimedOut(EngineError):
    """The upstream took longer than the limit for this step."""

    outcome = "timeout"
    code = "upstream_timeout"


class Refused(EngineError):
    """The upstream answered with an error status, or pointed elsewhere; `limit` is the model's context where its refusal names it."""

    def __init__(
        self,
        status: int,
        body: bytes,
        retry_after_ms: int | None = None,
        reason: Reason | None = None,
        limit: int = 0,
    ) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.body = body
        self.retry_after_ms = retry_after_ms
        self.reason = reason or reason_of(status)
        self.limit = limit
        # Another entity may have another account, another quota, or a longer context.
        self.retryable = status >= 500 or status < 400 or status in (401, 402, 403, 404, 408, 409, 425, 429)
        self.code = f"upstream_{status}"


class Reported(EngineError):
    """The upstream said in its stream that it failed."""

    code = "upstream_error_event"

    def __init__(self, reason: Reason = Reason.FAILED) -> None:
        super().__init__("the upstream reported an error in its stream")
        self.reason = reason


class Garbled(EngineError):
    """Not JSON, not an event stream, over a cap, or ended before its end."""

    code = "upstream_garbled"


class Unsupported(EngineError):
    """A field that this provider cannot be asked for; another entity may take it. The upstream is not to blame."""

    blamed = False
    code = "unsupported_field"

    def __init__(self, param: str, why: str = "") -> None:
        super().__init__(why or f"{param} cannot be asked of this provider")
        self.param = param
        self.why = why
