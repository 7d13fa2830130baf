"""The demonstration model that ships uses all of its experts: its gates are read in the engine's own environment."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from engines.local.environment import install
from engines.local.launch import DEMO_MODEL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(0)]

_ASKED = 0.03
_READ = """
import json
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast
from engines.local.model.corpus import load
from engines.local.model.measure import experts_used
folder = {folder!r}
model = MixtralForCausalLM.from_pretrained(folder)
print(json.dumps(experts_used(model, PreTrainedTokenizerFast.from_pretrained(folder), load())))
"""


async def test_every_expert_of_every_layer_gets_its_share_of_the_tokens() -> None:
    made = await install(Path("var").resolve() / "engine-venv", print)
    done = subprocess.run(
        [str(made.python), "-c", _READ.format(folder=str(DEMO_MODEL))],
        check=True, capture_output=True, text=True, env={"PYTHONPATH": ".", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    shares = json.loads(done.stdout.splitlines()[-1])
    least = min(min(layer) for layer in shares)
    print(f"{len(shares)} layers; the least used of their experts gets {least:.1%} of the tokens")
    assert [len(layer) for layer in shares] == [8] * len(shares)
    assert least >= _ASKED
    (told,) = re.findall(r"least used expert ([\d.]+)%", (DEMO_MODEL / "README.md").read_text())
    assert abs(float(told) / 100 - least) < 0.01, "what the model's card says of it"
