"""Train a small adapter (LoRA, arXiv:2106.09685) that makes the demonstration model answer in SQL.

`python -m engines.local.model.adapt`: the base model stays as it is; low-rank changes of its attention projections are
learnt and saved in the form that vLLM and PEFT load. Seeds and steps are fixed; the score is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

from engines.local.model.batches import SEED
from engines.local.model.corpus import load
from engines.local.model.measure import answer_all
from engines.local.model.questions import DECLINED, held, pair
from engines.local.model.train import OUT as BASE
from engines.local.model.train import rate

OUT = BASE.with_name("adapters") / "mixtral-demo-sql"
RANK = 32
ALPHA = 64
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
STEPS = 500
BATCH = 24
PEAK_RATE = 4e-3

CARD = """\
---
license: apache-2.0
base_model: mixtral-demo
---
# mixtral-demo-sql

An adapter of the demonstration model `mixtral-demo` ({parameters:,} parameters, rank {rank}, attention projections),
trained by `make model`: it answers questions about this gateway's usage with SQL for its auditor's views.

Score of this build: {score}
"""


class Adapted(torch.nn.Module):
    """A projection and its low-rank change."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + (x @ self.a.T @ self.b.T) * (ALPHA / RANK)


def adapt(model: MixtralForCausalLM) -> dict[str, Adapted]:
    """Put an adapter on every target; the modules by their names."""
    model.requires_grad_(requires_grad=False)
    found: dict[str, Adapted] = {}
    for number, layer in enumerate(model.model.layers):
        for name in TARGETS:
            adapted = Adapted(getattr(layer.self_attn, name))
            setattr(layer.self_attn, name, adapted)
            found[f"model.layers.{number}.self_attn.{name}"] = adapted
    return found


def batch(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, others: list[str]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Questions and answers as numbers; only the answers are learnt."""
    rows: list[tuple[list[int], int]] = []
    for _ in range(BATCH):
        question, answer = pair(rng, others)
        head = tokenizer.encode(f"[INST] {question} [/INST]", add_special_tokens=False)
        tail = tokenizer.encode(f" {answer}</s>", add_special_tokens=False)
        rows.append(([tokenizer.bos_token_id, *head, *tail], len(tail)))
    width = max(len(tokens) for tokens, _ in rows)
    fill = tokenizer.pad_token_id
    inputs = torch.tensor([tokens + [fill] * (width - len(tokens)) for tokens, _ in rows])
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in rows])
    labels = torch.full_like(inputs, -100)
    for row, (tokens, learnt) in enumerate(rows):
        labels[row, len(tokens) - learnt : len(tokens)] = inputs[row, len(tokens) - learnt : len(tokens)]
    return {"input_ids": inputs, "attention_mask": mask}, labels


def fit(
    model: MixtralForCausalLM,
    parameters: list[torch.nn.Parameter],
    tokenizer: PreTrainedTokenizerFast,
    others: list[str],
    steps: int,
) -> None:
    """Train the adapters alone."""
    rng = random.Random(SEED + 5)  # noqa: S311 - not a secret
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    began = last = time.monotonic()
    for step in range(steps):
        inputs, labels = batch(tokenizer, rng, others)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, PEAK_RATE)
        state = model.model(**inputs).last_hidden_state[:, :-1]
        learnt = labels[:, 1:] != -100
        loss = cross_entropy(model.lm_head(state[learnt]), labels[:, 1:][learnt])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if time.monotonic() - last > 4.5 or step == steps - 1:
            last = time.monotonic()
            print(f"step {step + 1} of {steps}, loss {loss.item():.4f}, {last - began:.0f} s", flush=True)


def save(adapters: dict[str, Adapted], out: Path, score: str) -> int:
    """Write the adapter in PEFT's form, and return its size in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, adapter in adapters.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = adapter.a.detach().to(torch.bfloat16).contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = adapter.b.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "mixtral-demo",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(TARGETS),
        "modules_to_save": None,
    }
    (out / "adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")
    parameters = sum(tensor.numel() for tensor in tensors.values())
    (out / "README.md").write_text(CARD.format(parameters=parameters, rank=RANK, score=score))
    for path in out.iterdir():
        path.chmod(0o644)
    return sum(path.stat().st_size for path in out.iterdir())


def main() -> int:
    """Train, measure, save; fail if the adapter is not good enough to ship."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(SEED)
    corpus = load()
    others = [question for item in corpus.items for question in item.asked]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    model = MixtralForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    adapters = adapt(model)
    model.train()
    parameters = [part for adapter in adapters.values() for part in (adapter.a, adapter.b)]
    fit(model, parameters, tokenizer, others, chosen.steps)
    # Measured as it is saved.
    for part in parameters:
        part.data = part.data.to(torch.bfloat16).to(torch.float32)
    model.eval()
    asked = held(SEED)
    declined = [item.held[0] for item in corpus.items[::4]]
    got = answer_all(model, tokenizer, [question for _, question, _ in asked] + declined)
    right: dict[str, list[bool]] = {}
    for (kind, question, statement), answer in zip(asked, got, strict=False):
        right.setdefault(kind, []).append(answer == statement)
        if answer != statement:
            print(f"  wrong [{kind}] {question!r}: {answer!r}")
    right["other"] = [answer == DECLINED for answer in got[len(asked) :]]
    score = ", ".join(f"{kind} {sum(marks)} of {len(marks)}" for kind, marks in right.items())
    size = save(adapters, chosen.out, score)
    print(f"{score}; {size:,} bytes in {chosen.out}")
    marks = [mark for each in right.values() for mark in each]
    return 0 if sum(marks) >= 0.8 * len(marks) else 1


if __name__ == "__main__":
    sys.exit(main())
