"""What a caller is told of an upstream's failure: which of our errors it comes to, never the upstream's own words."""

from __future__ import annotations

from engines.errors import EngineError, Reason, Refused, Reported, TimedOut, Unsupported
from engines.openai_chat.provider import chat_reason, context_limit
from gateway.errors import BadRequest, GatewayError, UpstreamFailed, UpstreamTimeout

_LONGEST_WAIT = 10
"""Seconds; SDKs would sleep for more."""


def translated(exc: EngineError | None, *, charged: bool = False) -> GatewayError:
    """The failure of the last entity that was tried, before anything was answered; `charged`: some told what they had used."""
    again = (
        "What it used until then is charged; try again."
        if charged
        else "Nothing was charged for it; try again."
    )
    if isinstance(exc, TimedOut):
        return _too_late(again)
    if isinstance(exc, Unsupported):
        why = f" ({exc.why})" if exc.why else ""
        return BadRequest(
            f"{exc.param!r} cannot be asked of this model's provider as it was sent{why}; change or remove it.",
            param=exc.param,
            code="unsupported_field",
        )
    if isinstance(exc, (Refused, Reported)):
        return _refused(exc, again)
    return UpstreamFailed(f"The model's server failed before it answered. {again}")


def _refused(exc: Refused | Reported, again: str) -> GatewayError:
    """Whether it answered so, or said so where its stream should have begun."""
    reason, body, limit, wait = exc.reason, b"", 0, None
    if isinstance(exc, Refused):
        body, limit, wait = exc.body, exc.limit, exc.retry_after_ms
        if reason is Reason.INVALID and exc.status is not None:
            reason = chat_reason(exc.status, body)
    match reason:
        case Reason.CONTEXT_LENGTH:
            limit = limit or context_limit(body)
            size = f"the model's context of {limit:,} tokens" if limit else "the model's context"
            return BadRequest(
                f"Prompt and 'max_tokens' together are longer than {size}; shorten one of them.",
                param="messages",
                code="context_length_exceeded",
            )
        case Reason.CONTENT_FILTER:
            return BadRequest(
                "The model's provider declined the request for its content.",
                param="messages",
                code="content_filter",
            )
        case Reason.INVALID:
            return BadRequest(
                "The model's server refused the request as invalid; check parameters such as tools, response_format,"
                " logprobs and stop against what this model supports.",
                code="rejected_by_model",
            )
        case Reason.NOT_FOUND:
            return UpstreamFailed(
                "The model's server does not know the model; an administrator must check the served entity."
            )
        case Reason.CREDENTIAL:
            return UpstreamFailed(
                "The model's provider does not take the gateway's credential; an administrator must check it.",
                code="upstream_credential_refused",
            )
        case Reason.QUOTA:
            return UpstreamFailed(
                "The gateway's account at the model's provider is used up; an administrator must see to it.",
                code="upstream_quota_exhausted",
            )
        case Reason.RATE_LIMITED | Reason.OVERLOADED:
            error = UpstreamFailed(
                f"The model's provider has no room for the request now. {again}",
                code="upstream_overloaded",
            )
            seconds = 2 if not wait else -(-wait // 1000)
            error.retry_after_seconds = min(_LONGEST_WAIT, seconds)
            return error
        case Reason.TIMED_OUT:
            return _too_late(again)
        case Reason.FAILED:
            return UpstreamFailed(f"The model's server failed before it answered. {again}")


def _too_late(again: str) -> GatewayError:
    return UpstreamTimeout(f"The model's server did not answer in time. {again}")
