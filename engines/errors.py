"""What can go wrong upstream, as a tree; `retryable` says whether another entity may be tried before the first byte.

EngineError
├── ConnectFailed     nothing was sent, or the connection died before an answer
├── TimedOut          no connection, no first byte, or silence for too long
├── Refused           a status of 400 or more
└── Garbled           an answer that is not what the protocol says
"""

from __future__ import annotations


class EngineError(Exception):
    """Base; the text is for the log and the attempt row, never for a client."""

    retryable = True
    outcome = "error"
    code = "upstream_error"
    status: int | None = None


class ConnectFailed(EngineError):
    """No connection, TLS trouble, or the connection was reset."""

    code = "upstream_unreachable"


class TimedOut(EngineError):
    """The upstream took longer than the limit for this step."""

    outcome = "timeout"
    code = "upstream_timeout"


class Refused(EngineError):
    """The upstream answered with an error status."""

    def __init__(self, status: int, body: bytes, retry_after: int | None = None) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.retryable = status >= 500 or status in (408, 409, 425, 429)
        self.code = f"upstream_{status}"


class Garbled(EngineError):
    """Not JSON, not an event stream, over a cap, or ended before its end."""

    code = "upstream_garbled"
