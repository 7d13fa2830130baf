"""How large a model is, and what one token costs: parameters, floating-point operations, bytes of cache.

Exact integers from the shape alone. Operations count a multiplication and an addition as two, forward pass only, the
usual "2 x parameters" (Kaplan et al., arXiv:2001.08361, section 2.1) plus attention over the context.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.mixture.shape import Shape


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters. `always` are used by every token; `expert` is one expert of one layer."""

    embedding: int
    head: int
    """0 where the embedding serves as the output head."""
    always: int
    expert: int
    sparse_layers: int
    experts: int
    experts_a_token: int

    @property
    def routed(self) -> int:
        """All experts of all layers."""
        return self.expert * self.experts * self.sparse_layers

    @property
    def total(self) -> int:
        """Everything that has to be stored."""
        return self.embedding + self.head + self.always + self.routed

    @property
    def active(self) -> int:
        """What one token takes part in, its embedding table included, as published figures count it."""
        return (
            self.embedding + self.head + self.always + self.expert * self.experts_a_token * self.sparse_layers
        )


def parameters(shape: Shape) -> Parameters:
    """Count a shape's parameters: Mixtral 8x7B has 46.7e9, 12.9e9 of them active (arXiv:2401.04088, section 1)."""
    sparse = shape.layers - shape.dense_layers
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    gate = shape.hidden if shape.shared_width and shape.experts > 1 and shape.latent is None else 0
    every_layer = _attention(shape) + 2 * shape.hidden
    always = (
        shape.layers * every_layer
        + sparse * (router + gate + 3 * shape.hidden * shape.shared_width)
        + shape.dense_layers * 3 * shape.hidden * shape.dense_width
        + shape.hidden
    )
    table = shape.vocabulary * shape.hidden
    return Parameters(
        embedding=table,
        head=0 if shape.tied else table,
        always=always,
        expert=3 * shape.hidden * shape.expert_width,
        sparse_layers=sparse,
        experts=shape.experts,
        experts_a_token=shape.experts_a_token,
    )


def flops_a_token(shape: Shape, context: int = 0) -> int:
    """Operations for one more token after `context` others; 26e9 for Mixtral 8x7B at a short context."""
    return 2 * parameters(shape).active + _attention_flops(shape, context)


def dense_flops_a_token(shape: Shape, context: int = 0) -> int:
    """The same for the equal dense model, whose every token takes all experts: 94e9 for Mixtral 8x7B."""
    return 2 * parameters(shape).total + _attention_flops(shape, context)


def cache_bytes_a_token(shape: Shape, bytes_an_element: int = 2) -> int:
    """Keys and values of one token over all layers: 131,072 bytes for Mixtral 8x7B in bfloat16.

    With latent attention the compressed vector and the rotary key are kept instead (arXiv:2405.04434, table 1).
    """
    if shape.latent is not None:
        return shape.layers * (shape.latent.kv_rank + shape.latent.rotary_width) * bytes_an_element
    return shape.layers * 2 * shape.kv_heads * shape.head_width * bytes_an_element


def attended(shape: Shape, context: int) -> int:
    """How many earlier tokens attention looks at."""
    return context if shape.window is None else min(context, shape.window)


def _attention(shape: Shape) -> int:
    latent = shape.latent
    if latent is not None:
        query_width = shape.heads * (latent.plain_width + latent.rotary_width)
        queries = (
            shape.hidden * latent.query_rank + latent.query_rank + latent.query_rank * query_width
            if latent.query_rank
            else shape.hidden * query_width
        )
        keys = shape.hidden * (latent.kv_rank + latent.rotary_width) + latent.kv_rank
        values = latent.kv_rank * shape.heads * (latent.plain_width + latent.value_width)
        return queries + keys + values + shape.heads * latent.value_width * shape.hidden
    query_width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    bias = query_width + 2 * kv_width if shape.attention_bias else 0
    norms = 2 * shape.head_width if shape.head_norms else 0
    return shape.hidden * (2 * query_width + 2 * kv_width) + bias + norms


def _attention_flops(shape: Shape, context: int) -> int:
    # Scores and weighted values: two products of head width x context for each head and layer.
    latent = shape.latent
    widths = (
        latent.plain_width + latent.rotary_width + latent.value_width
        if latent is not None
        else 2 * shape.head_width
    )
    return 2 * shape.layers * shape.heads * widths * attended(shape, context)
