"""The arithmetic of mixtures of experts against published figures, and properties that hold for every shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.local.launch import DEMO_MODEL
from engines.mixture.cards import CARDS
from engines.mixture.known import CONFIGS
from engines.mixture.roofline import decode_step, experts_touched, prefill_seconds, speed_up
from engines.mixture.shape import Shape, UnknownShape, read_shape
from engines.mixture.work import (
    cache_bytes_a_token,
    dense_flops_a_token,
    flops_a_token,
    parameters,
)

MIXTRAL = read_shape(CONFIGS["mistralai/Mixtral-8x7B-Instruct-v0.1"], "mixtral")
H100 = CARDS["h100"]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    heads, experts = draw(st.integers(1, 32)), draw(st.integers(1, 64))
    return Shape(
        name="any",
        hidden=64 * draw(st.integers(1, 64)),
        layers=draw(st.integers(1, 40)),
        heads=heads,
        kv_heads=heads,
        head_width=64,
        vocabulary=1000,
        experts=experts,
        experts_a_token=min(draw(st.integers(1, 8)), experts),
        expert_width=64 * draw(st.integers(1, 64)),
    )


@pytest.mark.parametrize(
    ("model", "total", "active"),
    [
        # arXiv:2401.04088 and the announcements of each model.
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7, 12.9),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 141, 39),
        ("Qwen/Qwen3-30B-A3B", 30.5, 3.3),
        ("allenai/OLMoE-1B-7B-0924", 6.9, 1.3),
        ("microsoft/Phi-3.5-MoE-instruct", 41.9, 6.6),
        ("deepseek-ai/DeepSeek-V3", 671, 37),
    ],
)
def test_total_and_active_parameters_are_those_that_were_published(
    model: str, total: float, active: float
) -> None:
    counted = parameters(read_shape(CONFIGS[model]))
    assert counted.total / 1e9 == pytest.approx(total, rel=0.005)
    assert counted.active / 1e9 == pytest.approx(active, rel=0.02)


def test_mixtral_is_counted_to_the_last_parameter() -> None:
    assert parameters(MIXTRAL).total == 46_702_792_704


def test_a_token_of_mixtral_takes_26_gflop_where_the_equal_dense_model_takes_94() -> None:
    assert flops_a_token(MIXTRAL) / 1e9 == pytest.approx(26, abs=0.5)
    assert dense_flops_a_token(MIXTRAL) / 1e9 == pytest.approx(94, abs=1)
    assert cache_bytes_a_token(MIXTRAL) == 131_072


def test_the_demonstration_model_has_as_many_parameters_as_its_file_holds() -> None:
    config = json.loads((DEMO_MODEL / "config.json").read_bytes())
    stored = 0
    for path in Path(DEMO_MODEL).rglob("*.safetensors"):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        head: dict[str, Any] = json.loads(raw[8 : 8 + length])
        for name, tensor in head.items():
            if name != "__metadata__":
                size = 1
                for side in tensor["shape"]:
                    size *= side
                stored += size
    assert stored > 1_000_000
    assert parameters(read_shape(config)).total == stored


def test_the_speed_up_is_3_6_where_computing_bounds_and_less_where_reading_all_experts_does() -> None:
    compute_bound = speed_up(MIXTRAL, H100, 4096)
    assert compute_bound == pytest.approx(46.7 / 12.9, rel=0.01)
    assert speed_up(MIXTRAL, H100, 16) < 1.1
    assert speed_up(MIXTRAL, H100, 4) < speed_up(MIXTRAL, H100, 2) < compute_bound
    # Alone on the engine a token reads only its own experts.
    assert speed_up(MIXTRAL, H100, 1) == pytest.approx(3.6, rel=0.03)


@pytest.mark.parametrize(("batch", "touched"), [(1, 2.0), (2, 3.5), (16, 7.92)])
def test_the_experts_that_a_batch_touches_follow_from_chance(batch: int, touched: float) -> None:
    assert experts_touched(8, 2, batch) == pytest.approx(touched, abs=0.01)


def test_uneven_use_of_experts_touches_fewer_of_them() -> None:
    even = experts_touched(8, 2, 8, [1 / 8] * 8)
    assert even == pytest.approx(experts_touched(8, 2, 8))
    assert experts_touched(8, 2, 8, [0.4, 0.3, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]) < even


@given(shapes(), st.integers(1, 2048), st.integers(0, 8192))
def test_no_mixture_is_slower_than_its_equal_dense_model_nor_faster_than_its_parameters_allow(
    shape: Shape, batch: int, context: int
) -> None:
    counted = parameters(shape)
    ratio = speed_up(shape, H100, batch, context=context)
    assert 1 - 1e-9 <= ratio <= counted.total / (counted.active - counted.embedding) + 1e-9


@given(shapes(), st.integers(1, 512), st.sampled_from(sorted(CARDS)))
def test_a_step_takes_at_least_its_operations_and_its_bytes(shape: Shape, batch: int, card: str) -> None:
    step = decode_step(shape, CARDS[card], batch)
    assert step.seconds >= step.compute_seconds
    assert step.seconds >= step.memory_seconds
    assert step.bound == ("compute" if step.compute_seconds >= step.memory_seconds else "memory")
    assert decode_step(shape, CARDS[card], batch + 1).seconds >= step.seconds
    assert prefill_seconds(shape, CARDS[card], batch) > 0


def test_a_sliding_window_bounds_the_work_of_attention() -> None:
    config = CONFIGS["mistralai/Mixtral-8x7B-Instruct-v0.1"]
    windowed = read_shape(config | {"sliding_window": 4096})
    assert flops_a_token(windowed, 32768) == flops_a_token(windowed, 4096) < flops_a_token(MIXTRAL, 32768)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_experts_per_tok": 9}, "9 experts"),
        ({"vocab_size": "32000"}, "vocab_size"),
        ({"num_key_value_heads": -1}, "num_key_value_heads"),
    ],
)
def test_a_config_without_a_needed_field_is_refused_by_its_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnknownShape, match=named):
        read_shape(CONFIGS["mistralai/Mixtral-8x7B-Instruct-v0.1"] | change)
