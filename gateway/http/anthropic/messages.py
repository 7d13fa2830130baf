"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect of calls to a model.

A count walks the same line as a call, so that nobody learns of a model who may not use it, and limits hold for it too.
"""

from __future__ import annotations

from gateway.http.anthropic.requests import read_count, read_message
from gateway.http.errors import Dialect
from gateway.http.plane import Api
from gateway.pipeline.counting import count_input
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line


async def _count(line: Line, exchange: Exchange) -> bytes:
    return b'{"input_tokens":%d}' % await count_input(line, exchange)


MESSAGES = Api(
    "anthropic.messages", Dialect.ANTHROPIC, lambda body, endpoint: read_message(body, model=endpoint)
)
COUNT = Api(
    "anthropic.count_tokens",
    Dialect.ANTHROPIC,
    lambda body, endpoint: read_count(body, model=endpoint),
    _count,
)
CALLS = {"/v1/messages": MESSAGES, "/v1/messages/count_tokens": COUNT}
"""By path."""
