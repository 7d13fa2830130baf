"""How it ended: one record of every request. An admitted one has its ledger row; a refused one goes to the trail."""

from __future__ import annotations

from gateway.errors import BudgetExhausted, GatewayError, LimitExceeded
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line


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
    )
