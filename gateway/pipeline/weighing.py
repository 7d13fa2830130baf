"""What a request is weighed by on the way in, and what is put on record of it so that the decision can be made again."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.pipeline.exchange import Exchange, ModelRequest
from gateway.spool.records import Weighed
from policies.catalog import Endpoint
from policies.estimate import allowance, prompt_estimate
from policies.weighing import Ask


def needs(request: ModelRequest, endpoint: Endpoint) -> Ask:
    """The estimate of the prompt, and the output to ask for."""
    output, least = allowance(
        stream=request.stream,
        max_tokens=request.max_tokens,
        default_max_tokens=endpoint.default_max_tokens,
        n=request.n,
    )
    estimate = prompt_estimate(request.text_bytes, request.messages, endpoint.estimate_milli)
    return Ask(estimate + request.token_ids, output, least)


def estimated_prompt(request: ModelRequest, endpoint: Endpoint) -> int:
    """The tokens that the input is taken for while nobody has counted them."""
    return needs(request, endpoint).prompt_tokens


def weighed(exchange: Exchange, ask: Ask, seen: Sequence[int], share_percent: int) -> Weighed:
    """The record; groups are named where they are not those of the configuration."""
    who = exchange.caller.principal
    stored = exchange.snapshot.principals.get(who.id)
    same = stored is who or (stored is not None and stored.groups == who.groups)
    return Weighed(
        ask.output,
        ask.least,
        list(seen),
        exchange.group,
        share_percent,
        None if same else list(who.groups),
    )
