"""The shape of a decoder-only model, read from its published `config.json`; everything else here is computed from it.

Mixtures of experts of the Mixtral, Qwen, OLMoE, Phi, gpt-oss and DeepSeek families are read, and dense models as
mixtures of one expert; a config that says neither is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class UnknownShape(ValueError):
    """The config lacks what the arithmetic needs; the text names the field."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): ranks and head widths."""

    query_rank: int
    """0 where queries are not compressed."""
    kv_rank: int
    plain_width: int
    rotary_width: int
    value_width: int


@dataclass(frozen=True, slots=True)
class Shape:
    """One model's dimensions; widths in elements."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    experts: int
    """Experts of a sparse layer; 1 for a dense model."""
    experts_a_token: int
    expert_width: int
    """Intermediate width of one expert: three matrices of hidden x this."""
    shared_width: int = 0
    """Summed intermediate width of the experts that every token takes beside the routed ones."""
    dense_layers: int = 0
    """Layers with one plain feed-forward block instead of experts."""
    dense_width: int = 0
    tied: bool = False
    """Whether the output head is the embedding."""
    attention_bias: bool = False
    head_norms: bool = False
    window: int | None = None
    """Tokens that attention looks back, where it slides."""
    latent: Latent | None = None
    longest: int = 0
    """Longest context in tokens that the config allows; 0 where it does not say."""

    @property
    def sparse(self) -> bool:
        """Whether a token takes only some of the experts."""
        return self.experts_a_token < self.experts


_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_EXPERTS_A_TOKEN = ("num_experts_per_tok", "moe_top_k", "experts_per_token", "num_experts_per_token")


def read_shape(config: Mapping[str, Any], name: str = "") -> Shape:
    """Read the shape of a Hugging Face `config.json`; raises UnknownShape where a field is missing or absurd."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    hidden = _number(config, "hidden_size")
    layers = _number(config, "num_hidden_layers")
    heads = _number(config, "num_attention_heads")
    experts = _first(config, _EXPERTS, 1)
    a_token = _first(config, _EXPERTS_A_TOKEN, 1)
    if not 1 <= a_token <= experts:
        raise UnknownShape(f"{a_token} experts a token of {experts} cannot be")
    width = _number(config, "intermediate_size")
    expert_width = _first(config, ("moe_intermediate_size",), width)
    shared = _first(config, ("shared_expert_intermediate_size",), 0)
    shared = shared or _first(config, ("n_shared_experts",), 0) * expert_width
    return Shape(
        name=name or str(config.get("_name_or_path") or config.get("model_type") or "model"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_first(config, ("num_key_value_heads",), heads),
        head_width=_first(config, ("head_dim",), 0) or hidden // heads,
        vocabulary=_number(config, "vocab_size"),
        experts=experts,
        experts_a_token=a_token,
        expert_width=expert_width,
        shared_width=shared,
        dense_layers=_dense_layers(config, layers) if experts > 1 else 0,
        dense_width=width,
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2_moe")),
        head_norms=config.get("model_type") in ("qwen3", "qwen3_moe"),
        window=_window(config),
        latent=_latent(config),
        longest=_first(config, ("max_position_embeddings",), 0),
    )


def _dense_layers(config: Mapping[str, Any], layers: int) -> int:
    named = config.get("mlp_only_layers")
    if isinstance(named, list) and named:
        return len(named)  # pyright: ignore[reportUnknownArgumentType]
    first = _first(config, ("first_k_dense_replace",), 0)
    step = _first(config, ("decoder_sparse_step", "moe_layer_freq"), 1)
    return first + sum(1 for layer in range(first, layers) if (layer + 1) % max(step, 1))


def _window(config: Mapping[str, Any]) -> int | None:
    window = config.get("sliding_window")
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return None
    return window


def _latent(config: Mapping[str, Any]) -> Latent | None:
    if not config.get("kv_lora_rank"):
        return None
    return Latent(
        query_rank=_first(config, ("q_lora_rank",), 0),
        kv_rank=_number(config, "kv_lora_rank"),
        plain_width=_number(config, "qk_nope_head_dim"),
        rotary_width=_number(config, "qk_rope_head_dim"),
        value_width=_number(config, "v_head_dim"),
    )


def _number(config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UnknownShape(f"the config has no positive {field!r}")
    return value


def _first(config: Mapping[str, Any], fields: tuple[str, ...], otherwise: int) -> int:
    for field in fields:
        value = config.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                raise UnknownShape(f"{field!r} is negative")
            return value
    return otherwise
