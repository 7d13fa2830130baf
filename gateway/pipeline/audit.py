"""How it ended: one record of every request. An admitted one has its ledger row; a refused one goes to the trail."""

from __future__ import annotations

from gateway.errors import BudgetExhausted, Forbidden, GatewayError, LimitExceeded
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.weighing import needs, weighed
from gateway.spool.records import Turned


def audit(line: Line, exchange: Exchange | None, error: GatewayError, address: str | None = None) -> None:
    """Record a refusal; a request that was admitted is left to its settlement. `address` is where the call came from."""
    if exchange is not None and exchange.reservation is not None:
        return
    caller = getattr(exchange, "caller", None)
    request = getattr(exchange, "request", None)
    line.trail.refused(
        None if caller is None else caller.principal.id,
        None if request is None else request.model,
        error.code,
        limit_id=error.detail.limit if isinstance(error, (LimitExceeded, BudgetExhausted)) else None,
        address=address,
        turned=None if exchange is None or request is None else _turned(line, exchange, error),
    )


def _turned(line: Line, exchange: Exchange, error: GatewayError) -> Turned | None:
    """What a policy decided about; None where none did, or where the counters were not asked."""
    if isinstance(error, (LimitExceeded, BudgetExhausted)):
        if not error.decided_at_ms:
            return None
        endpoint, at_ms, seen = exchange.endpoint, error.decided_at_ms, error.seen
    elif isinstance(error, Forbidden) and error.code == "permission_denied":
        found = exchange.snapshot.endpoints.get(exchange.request.model)
        if found is None:
            return None
        endpoint, at_ms, seen = found, line.wall_ms(), []
    else:
        return None
    caller = exchange.caller
    asked = needs(exchange.request, endpoint)
    batch = exchange.batch or caller.batch or endpoint.batch
    share = line.batch_percent if batch else caller.share_percent
    return Turned(
        at_ms,
        exchange.snapshot.version,
        endpoint.id,
        caller.key_id,
        asked.prompt_tokens,
        weighed(exchange, asked, seen, share),
    )
