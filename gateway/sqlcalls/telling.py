"""What came of a call, as the waiting side gets it: the text or the vector of an answer, or an error with its SQLSTATE.

The one place that says which refusal is which SQLSTATE.
"""

from __future__ import annotations

import msgspec

from gateway.errors import (
    BadRequest,
    BudgetExhausted,
    Forbidden,
    GatewayError,
    LimitExceeded,
    NotFound,
    OutOfService,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)

SQLSTATES: tuple[tuple[type[GatewayError], str], ...] = (
    (Forbidden, "42501"),  # insufficient_privilege
    (Unauthenticated, "42501"),
    (NotFound, "42704"),  # undefined_object
    (LimitExceeded, "53400"),  # configuration_limit_exceeded
    (BudgetExhausted, "53400"),
    (TooLarge, "54000"),  # program_limit_exceeded
    (BadRequest, "22023"),  # invalid_parameter_value
    (Unavailable, "57P03"),  # cannot_connect_now: it is right to try again
    (OutOfService, "55000"),  # object_not_in_prerequisite_state: it is not
    (UpstreamFailed, "58000"),  # system_error: outside of the database
    (UpstreamTimeout, "58000"),
)
_NOT_OFFERED = "0A000"
_INTERNAL = "XX000"
_json = msgspec.json.Encoder()


def sqlstate(error: GatewayError) -> str:
    """The five letters that SQL knows the refusal by."""
    if error.code == "unsupported_task":
        return _NOT_OFFERED
    return next((state for kind, state in SQLSTATES if isinstance(error, kind)), _INTERNAL)


def told(outcome: bytes | GatewayError, request_id: str) -> str:
    """The JSON that the waiting side gets."""
    if isinstance(outcome, GatewayError):
        return refused(sqlstate(outcome), outcome, request_id)
    answer = content(outcome)
    return _text({"answer": answer}) if type(answer) is str else _json.encode({"answer": answer}).decode()


def refused(state: str, error: GatewayError, request_id: str) -> str:
    """An error with that SQLSTATE."""
    named = f" of {error.param}" if error.param else ""
    body = {
        "code": state,
        "message": error.message,
        "detail": f"Request {request_id} was refused: {error.code}{named}.",
    }
    if error.retry_after_seconds is not None:
        body["hint"] = f"Try again in {error.retry_after_seconds} s."
    return _text(body)


def content(body: bytes) -> str | list[float]:
    """The text in an answer of OpenAI's shape, or its vector; where a model calls tools instead, its message as JSON."""
    answer = msgspec.json.decode(body)
    if "choices" not in answer:
        return answer["data"][0]["embedding"]
    choice = answer["choices"][0]
    message = choice.get("message")
    if message is None:
        return str(choice.get("text") or "")
    if message.get("content") is None and message.get("tool_calls"):
        return _json.encode(message).decode()
    return str(message.get("content") or "")


def _text(value: dict[str, str]) -> str:
    # PostgreSQL has no character zero.
    return _json.encode({name: each.replace("\0", "\ufffd") for name, each in value.items()}).decode()
