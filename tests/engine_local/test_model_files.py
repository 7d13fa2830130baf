"""The model that ships: small, a real Mixtral, and honest about itself. Read as files, without torch."""

from __future__ import annotations

import json
import struct
from math import prod

from engines.local.launch import DEMO_CONTEXT, DEMO_MODEL

CONFIG = json.loads((DEMO_MODEL / "config.json").read_text())


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO_MODEL.iterdir()) <= 8_000_000


def test_it_is_a_real_mixtral_with_eight_experts_of_which_two_work() -> None:
    assert CONFIG["architectures"] == ["MixtralForCausalLM"]
    assert CONFIG["model_type"] == "mixtral"
    assert (CONFIG["num_local_experts"], CONFIG["num_experts_per_tok"]) == (8, 2)
    assert CONFIG["max_position_embeddings"] == DEMO_CONTEXT


def test_its_weights_are_safetensors_in_bfloat16_with_every_expert() -> None:
    raw = (DEMO_MODEL / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    tensors = json.loads(raw[8 : 8 + length])
    tensors.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    parameters = sum(prod(tensor["shape"]) for tensor in tensors.values())
    assert 3_000_000 < parameters < 4_000_000
    for layer in range(CONFIG["num_hidden_layers"]):
        for expert in range(8):
            assert any(f"layers.{layer}." in name and f"experts.{expert}." in name for name in tensors)


def test_its_chat_template_marks_turns_as_mixtral_does_and_takes_a_system_message() -> None:
    template = (DEMO_MODEL / "chat_template.jinja").read_text()
    assert "[INST] " in template
    assert " [/INST]" in template
    assert "system" in template


def test_its_tokenizer_keeps_the_marks_whole() -> None:
    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    assert {"<s>", "</s>", "[INST]", "[/INST]"} <= special
    assert len(tokenizer["model"]["vocab"]) == CONFIG["vocab_size"]


def test_it_says_what_it_is_and_under_which_licence() -> None:
    card = (DEMO_MODEL / "README.md").read_text()
    assert "demonstration model" in card
    assert "Apache-2.0" in card
    assert CONFIG["license"] == "apache-2.0"
