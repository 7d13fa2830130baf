"""Which cards a model fits on, what a plan of it says, and the command that prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from engines.mixture.cards import CARDS
from engines.mixture.known import CONFIGS
from engines.mixture.plan import Workload, plan
from engines.mixture.recipe import CannotFit, recipe, smallest
from engines.mixture.shape import read_shape
from gateway.__main__ import main

NAME = "mistralai/Mixtral-8x7B-Instruct-v0.1"
MIXTRAL = read_shape(CONFIGS[NAME], NAME)
DEEPSEEK = read_shape(CONFIGS["deepseek-ai/DeepSeek-V3"], "deepseek-ai/DeepSeek-V3")


@pytest.mark.parametrize(
    ("card", "precision", "cards"),
    [
        ("h100", "bf16", 2),
        ("h200", "bf16", 1),
        ("h100", "fp8", 1),
        ("a100-80", "bf16", 2),
        ("l40s", "fp8", 2),
    ],
)
def test_mixtral_with_32k_context_takes_the_cards_that_it_is_known_to_take(
    card: str, precision: str, cards: int
) -> None:
    found = smallest(MIXTRAL, CARDS[card], precision=precision, context=32768)  # type: ignore[arg-type]
    assert found.cards == cards
    assert found.cache_tokens >= 32768


def test_what_does_not_fit_is_refused_with_its_arithmetic() -> None:
    with pytest.raises(CannotFit, match=r"72\.0 GB usable.*weights take 93\.4"):
        recipe(MIXTRAL, CARDS["h100"], 1, context=32768)


@pytest.mark.parametrize(
    ("card", "cards", "precision", "context", "expert_parallel", "why"),
    [
        ("a100-80", 2, "fp8", 4096, False, "no fp8 units"),
        ("h100", 3, "bf16", 4096, False, "32 attention heads"),
        ("h100", 12, "bf16", 4096, False, "whole machines"),
        ("h100", 2, "bf16", 65536, False, "contexts of 32,768"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(
    card: str, cards: int, precision: str, context: int, expert_parallel: bool, why: str
) -> None:
    with pytest.raises(CannotFit, match=why):
        recipe(
            MIXTRAL,
            CARDS[card],
            cards,
            precision=precision,  # type: ignore[arg-type]
            context=context,
            expert_parallel=expert_parallel,
        )


def test_several_machines_are_laid_out_in_stages_on_ray() -> None:
    found = recipe(DEEPSEEK, CARDS["h100"], 32, context=8192, expert_parallel=True)
    assert (found.tensor_parallel, found.pipeline_parallel, found.nodes) == (8, 4, 4)
    said = " ".join(found.arguments())
    assert "--pipeline-parallel-size 4 --distributed-executor-backend ray --enable-expert-parallel" in said


@given(
    st.sampled_from(sorted(CONFIGS)),
    st.sampled_from(sorted(CARDS)),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.sampled_from([512, 4096]),
)
def test_nothing_is_proposed_that_takes_more_memory_than_there_is(
    model: str, card: str, cards: int, context: int
) -> None:
    shape = read_shape(CONFIGS[model], model)
    try:
        found = recipe(shape, CARDS[card], cards, context=context)
    except CannotFit:
        return
    assert found.weight_bytes + found.working_bytes + found.cache_bytes <= CARDS[card].memory * 0.9
    assert found.cache_bytes > 0
    assert found.weight_bytes * cards >= 2 * 6e9


def test_prices_add_up_to_the_hour() -> None:
    made = smallest(MIXTRAL, CARDS["h100"], context=32768)
    found = plan(MIXTRAL, made, Workload(512, 256, 32), hour_price=2.5, efficiency=0.5)
    an_hour = 3600 * (
        found.answer_tokens_a_second * found.answer_price + found.prompt_tokens_a_second * found.prompt_price
    )
    assert an_hour / 1e6 == pytest.approx(2 * 2.5)
    faster = plan(MIXTRAL, made, Workload(512, 256, 32), hour_price=2.5)
    assert faster.answer_price == pytest.approx(found.answer_price / 2)


def test_the_cache_bounds_how_many_run_at_once() -> None:
    made = smallest(MIXTRAL, CARDS["h100"], precision="fp8", context=32768)
    found = plan(MIXTRAL, made, Workload(30000, 1000, 500))
    assert found.at_once == made.cache_tokens // 31000


def test_the_command_plans_a_model_from_its_own_config(tmp_path: Path) -> None:
    folder = tmp_path / "my-mixture"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[NAME] | {"num_hidden_layers": 8}))
    said = CliRunner().invoke(main, ["engine", "plan", str(folder), "--card", "l40s", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert told["model"]["parameters"] == 11_872_309_248
    assert [each["cards"] for each in told["plans"]] == [1, 1]


def test_the_command_says_what_to_give_instead() -> None:
    runner = CliRunner()
    assert "known are h100" in runner.invoke(main, ["engine", "plan", "--card", "tpu"]).output
    assert "give the path of its config.json" in runner.invoke(main, ["engine", "plan", "gpt-9"]).output
    one = runner.invoke(main, ["engine", "plan", "--card", "h100", "--cards", "1", "--precision", "bf16"])
    assert one.exit_code == 1
    assert "weights take 93.4" in one.output
    fits = runner.invoke(
        main, ["engine", "plan", "--card", "h100", "--precision", "fp8", "--hour-price", "2.5"]
    )
    assert "vllm serve mistralai/Mixtral-8x7B-Instruct-v0.1" in fits.output


def test_the_command_shows_the_published_numbers_and_how_the_advantage_depends_on_the_batch() -> None:
    said = CliRunner().invoke(main, ["engine", "plan", "--card", "h100", "--precision", "fp8"]).output
    assert "46.7B parameters, 12.9B active a token (2 of 8 experts)" in said
    assert "26 GFLOP a token (93 for the equal dense model, 3.6 x)" in said
    assert "the equal dense model takes" in said
    asked = ["engine", "plan", "--card", "h200", "--precision", "bf16", "--json"]
    [found] = json.loads(
        CliRunner().invoke(main, [*asked, "--prompt-tokens", "64", "--answer-tokens", "64"]).output
    )["plans"]
    times = {each["batch"]: round(each["times_equal_dense"], 1) for each in found["batches"]}
    assert (times[1], times[16], times[1024]) == (3.7, 1.0, 3.6)
    assert [each["bound"] for each in found["batches"]] == ["memory"] * 5 + ["compute"]


def test_the_command_takes_a_models_own_context_where_nobody_says_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[NAME] | {"max_position_embeddings": 4096}))
    said = CliRunner().invoke(main, ["engine", "plan", str(tmp_path), "--card", "h200"])
    assert said.exit_code == 0, said.output
    one = CliRunner().invoke(main, ["engine", "plan", str(tmp_path), "--card", "h200", "--context", "8192"])
    assert "was made for contexts of 4,096 tokens, not 8,192" in one.output
