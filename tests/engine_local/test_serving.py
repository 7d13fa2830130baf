"""Which model is served how, on which cards, and the refusal with its arithmetic where none of it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.local import cards as subject
from engines.local.cards import CardAtHand, cards_at_hand, read_cards, visible
from engines.local.launch import DEMO_CONTEXT, DEMO_NAME, command
from engines.local.models import LocalModel, NoSuchModel, local_model
from engines.local.serving import NoRecipe, Wish, read_wish, servings
from engines.mixture.recipe import CannotFit
from gateway.settings import Settings, SettingsError
from gateway.supervise.engine import spec_of
from gateway.supervise.preflight import CannotRun, check_engine

TWO_H100 = """\
0, GPU-11111111-aaaa-bbbb-cccc-000000000000, NVIDIA H100 80GB HBM3, 81559, 9.0
1, GPU-22222222-aaaa-bbbb-cccc-000000000000, NVIDIA H100 80GB HBM3, 81559, 9.0
"""
H200 = "0, GPU-33333333-aaaa-bbbb-cccc-000000000000, NVIDIA H200, 143771, 9.0\n"
A100 = "0, GPU-44444444-aaaa-bbbb-cccc-000000000000, NVIDIA A100-SXM4-80GB, 81920, 8.0\n"
L4 = "0, GPU-55555555-aaaa-bbbb-cccc-000000000000, NVIDIA L4, 23034, 8.9\n"
MIXTRAL = local_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
DEMO = local_model(None)
LITTLE = 8 << 30


def option(options: tuple[str, ...] | list[str], name: str) -> str:
    return options[options.index(name) + 1]


def test_what_the_driver_says_is_read_and_cards_in_trouble_are_left_out() -> None:
    told = TWO_H100 + "2, GPU-x, NVIDIA H100 80GB HBM3, [N/A], 9.0\n3, GPU-y, , ,\nNo devices were found\n"
    first, second = read_cards(told)
    assert (first.index, first.name, first.memory, first.fp8) == (
        "0", "NVIDIA H100 80GB HBM3", 81559 << 20, True,
    )  # fmt: skip
    assert second.uuid.startswith("GPU-2222")
    assert not read_cards(A100)[0].fp8
    assert read_cards(L4)[0].fp8
    assert read_cards("") == ()


@pytest.mark.parametrize(
    ("named", "left"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        (" 0 , 7, 1", ["0"]),
        ("GPU-2222", ["1"]),
        ("GPU-", []),
        ("0,0", ["0"]),
        ("-1", []),
    ],
)
def test_cards_that_are_hidden_from_programs_are_no_cards(named: str | None, left: list[str]) -> None:
    assert [card.index for card in visible(read_cards(TWO_H100), named)] == left


@pytest.mark.parametrize(("script", "found"), [(f"cat <<'E'\n{H200}E", 1), ("exit 9", 0), ("echo broken", 0)])
def test_the_driver_is_asked_and_one_that_fails_means_no_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: int
) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\n{script}\n")
    asked.chmod(0o755)
    monkeypatch.setattr(subject.shutil, "which", lambda _: str(asked))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(cards_at_hand()) == found
    monkeypatch.setattr(subject.shutil, "which", lambda _: None)
    assert cards_at_hand() == ()


@pytest.mark.parametrize(
    ("told", "wish", "parallel", "precision", "context"),
    [
        (TWO_H100, "", "2", None, "32768"),
        (TWO_H100, "fp8", "1", "fp8", "32768"),
        (TWO_H100, "fp8,cards=2,expert-parallel", "2", "fp8", "32768"),
        (TWO_H100, "context=8192", "2", None, "8192"),
        (H200, "", "1", None, "32768"),
        # On one card of 80 GB only 8 bits fit, and nobody has to say so.
        (TWO_H100.splitlines()[0], "", "1", "fp8", "32768"),
    ],
)
def test_mixtral_is_served_by_the_published_recipes(
    told: str, wish: str, parallel: str, precision: str | None, context: str
) -> None:
    (how,) = servings(MIXTRAL, read_cards(told), LITTLE, read_wish(wish), 1)
    assert how.device == "gpu"
    assert option(how.options, "--tensor-parallel-size") == parallel
    assert ("--quantization" in how.options) == (precision == "fp8")
    assert ("--enable-expert-parallel" in how.options) == ("expert-parallel" in wish)
    assert how.cards == ",".join(card.uuid for card in read_cards(told)[: int(parallel)])
    arguments = command(
        spec_of(MIXTRAL, how, python=Path("p"), socket=Path("/s"), cache=Path("c"), log=Path("l"))
    )
    assert option(arguments, "--max-model-len") == context
    assert option(arguments, "--model") == "mistralai/Mixtral-8x7B-Instruct-v0.1"
    names = arguments[arguments.index("--served-model-name") + 1 :][:2]
    assert names == ["Mixtral-8x7B-Instruct-v0.1", DEMO_NAME]
    assert "--enforce-eager" not in arguments
    assert "GB: weights" in how.says


def test_replicas_get_cards_of_their_own() -> None:
    how = servings(MIXTRAL, read_cards(TWO_H100), LITTLE, Wish(), 2)
    assert [each.cards for each in how] == [card.uuid for card in read_cards(TWO_H100)]
    assert all("--quantization" in each.options for each in how)
    assert all(option(each.options, "--tensor-parallel-size") == "1" for each in how)


@pytest.mark.parametrize(
    ("told", "wish", "replicas", "why"),
    [
        (L4, "", 1, r"usable a card, weights take 93\.4.*weights take 47\.0"),
        (A100, "", 1, r"weights take 93\.4.*no fp8 units"),
        (A100, "bf16", 1, r"weights take 93\.4"),
        (
            TWO_H100,
            "cards=4",
            1,
            "asks for 4 cards a replica; there are 2 x NVIDIA H100 80GB HBM3 of 85.5 GB",
        ),
        (TWO_H100, "", 3, "3 replicas need a card each"),
        (TWO_H100, "context=65536", 1, "made for contexts of 32,768 tokens"),
        ("", "", 1, r"weights take 93\.4 GB in bf16.*8\.6 GB are free, and no NVIDIA card answers"),
        ("", "fp8", 1, "asks for cards, and no NVIDIA card"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_arithmetic(
    told: str, wish: str, replicas: int, why: str
) -> None:
    with pytest.raises(CannotFit, match=why):
        servings(MIXTRAL, read_cards(told), LITTLE, read_wish(wish), replicas)


def test_the_model_that_ships_is_served_anywhere() -> None:
    on_cpu = servings(DEMO, (), 0, Wish(), 2)
    assert {(each.device, each.context, each.options, each.cards) for each in on_cpu} == {
        ("cpu", DEMO_CONTEXT, (), None)
    }
    cards = read_cards(TWO_H100)
    dealt = servings(DEMO, cards, 0, Wish(), 3)
    assert [each.cards for each in dealt] == [cards[0].uuid, cards[1].uuid, cards[0].uuid]
    assert all(each.device == "gpu" and "--kv-cache-memory-bytes" in each.options for each in dealt)
    assert servings(DEMO, cards[:1], 0, Wish(), 2)[1].cards is None


def test_a_small_model_of_ones_own_is_served_on_the_cpu(tmp_path: Path) -> None:
    model = local_model(str(_small(tmp_path / "My-Model")))
    assert (model.name, model.shape.layers, model.ships) == ("My-Model", 2, False)
    (how,) = servings(model, (), LITTLE, Wish(context=1000), 1)
    arguments = command(
        spec_of(model, how, python=Path("p"), socket=Path("/s"), cache=Path("c"), log=Path("l"))
    )
    assert option(arguments, "--max-model-len") == "1000"
    assert "--enforce-eager" in arguments
    with pytest.raises(CannotFit, match="contexts of 2,048"):
        servings(model, (), LITTLE, Wish(context=4096), 1)


def _small(folder: Path) -> Path:
    folder.mkdir()
    told = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 512,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(("model", "told"), [(DEMO, ""), (DEMO, H200), (MIXTRAL, H200)])
def test_how_many_calls_a_step_takes_can_be_said_for_every_model(model: LocalModel, told: str) -> None:
    (how,) = servings(model, read_cards(told), LITTLE, read_wish("seats=16"), 1)
    arguments = command(
        spec_of(model, how, python=Path("p"), socket=Path("/s"), cache=Path("c"), log=Path("l"))
    )
    # The last of them holds.
    assert arguments[::-1][:2] == ["16", "--max-num-seqs"]


def test_an_engine_tells_its_experts_where_it_can() -> None:
    (how,) = servings(MIXTRAL, read_cards(H200), LITTLE, read_wish("bf16,tell-experts"), 1)
    assert how.options[-1] == "--enable-return-routed-experts"
    with pytest.raises(CannotFit, match="no NVIDIA card answers: leave tell-experts out"):
        servings(DEMO, (), LITTLE, read_wish("tell-experts"), 1)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"hidden_size": 64}'])
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(NoSuchModel, match=r"config\.json cannot be read"):
        local_model(str(tmp_path))
    with pytest.raises(NoSuchModel, match="neither a folder nor a known model"):
        local_model("nobody/knows")


@pytest.mark.parametrize(
    "text", ["int4", "cards=0", "cards=x", "bf16,fp8", "context=", "cards=1,cards=2", "fp8;x"]
)
def test_a_recipe_that_cannot_be_read_is_refused_by_the_settings(text: str) -> None:
    with pytest.raises(NoRecipe, match="no part of a recipe"):
        read_wish(text)
    with pytest.raises(SettingsError, match="ENGINE_RECIPE"):
        Settings.from_env({"WEIGHBRIDGE_ENGINE_RECIPE": text})


def test_settings_reach_children_whole_and_a_start_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _small(tmp_path / "model")
    given = {
        "WEIGHBRIDGE_ENGINE_MODEL": "model",
        "WEIGHBRIDGE_ENGINE_RECIPE": "context=512",
        "WEIGHBRIDGE_HOME": str(tmp_path),
    }
    settings = Settings.from_env(given)
    assert settings.engine_model == str(tmp_path / "model")
    assert Settings.from_env(settings.to_env()) == settings
    monkeypatch.setattr("gateway.supervise.engine.cards_at_hand", lambda: _cards(L4))
    check_engine(settings)
    large = Settings.from_env(
        given | {"WEIGHBRIDGE_ENGINE_MODEL": MIXTRAL.source, "WEIGHBRIDGE_ENGINE_RECIPE": ""}
    )
    with pytest.raises(CannotRun, match=r"cannot be served here\. .*weights take 93\.4"):
        check_engine(large)


def _cards(told: str) -> tuple[CardAtHand, ...]:
    return read_cards(told)


def test_the_known_models_and_the_one_that_ships_have_shapes() -> None:
    assert isinstance(DEMO, LocalModel)
    assert DEMO.ships
    assert MIXTRAL.shape.experts == 8
