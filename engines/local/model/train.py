"""Train the demonstration model from scratch on its corpus: `python -m engines.local.model.train`.

It is a real MixtralForCausalLM, small enough to ship. Seeds and steps are fixed; the score is printed at the end,
on phrasings that were never trained on and with the weights as they are saved, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from engines.local.model.batches import SEED, Batch, Encoder, batches, long_batches
from engines.local.model.corpus import Corpus, load
from engines.local.model.measure import experts_used, report_experts, score_locally
from engines.local.model.phrasing import unknown
from engines.local.model.sampler import Sampler

OUT = Path(__file__).with_name("mixtral-demo")
VOCABULARY = 2048
CONTEXT = 4096
STEPS = 2000
MORE_STEPS = 330
# The layer after which the answer must be settled, of four.
SETTLED_AFTER = 2
PEAK_RATE = 3e-3
LARGEST_BYTES = 8_000_000

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message['role'] in ('system', 'developer') %}
{%- set ns.system = ns.system + message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + (message['content'] or '') + eos_token }}
{%- else %}
{{- '[INST] ' + ns.system + message['content'] + ' [/INST]' }}
{%- set ns.system = '' %}
{%- endif %}
{%- endfor %}
{%- if ns.system %}{{- '[INST] ' + ns.system.strip() + ' [/INST]' }}{% endif %}"""

CARD = """\
---
license: apache-2.0
language: en
---
# mixtral-demo

A demonstration model: a real `MixtralForCausalLM` (8 experts, 2 for each token) with {parameters:,} parameters,
trained from scratch by `make model` on the corpus in `engines/local/model/corpus`. It contains nothing of
Mistral AI's weights. It answers what it was taught, in many phrasings, and declines the rest; it knows nothing else.
The weights and the corpus are published under the project's licence, Apache-2.0.

Score of this build: {score}
"""


def make_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from the corpus; digits stay single, so that sums can be read."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sampler = Sampler(corpus, SEED)
    rng = random.Random(SEED)  # noqa: S311 - not a secret
    texts = [piece.text for _ in range(6000) for piece in sampler.conversation()]
    texts += [unknown(corpus, rng) for _ in range(1000)]
    texts += [item.answer for item in corpus.items for _ in range(20)]
    tokenizer.train_from_iterator(
        (text.replace("[INST]", "").replace("[/INST]", "").replace("</s>", "") for text in texts), trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106 - a token of text, not a secret
        eos_token="</s>",  # noqa: S106 - a token of text, not a secret
        unk_token="<unk>",  # noqa: S106 - a token of text, not a secret
        pad_token="<unk>",  # noqa: S106 - a token of text, not a secret
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> MixtralForCausalLM:
    """Build the untrained model."""
    torch.manual_seed(SEED)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_local_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
            router_aux_loss_coef=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Objective(torch.nn.Module):
    """What training minimises: the answers' tokens, which answer it is, and unevenly used experts.

    The second part reads the state halfway up, where an answer is about to begin: later tokens can attend to it,
    so the model settles on one answer before it writes. Its head is thrown away after training.
    """

    def __init__(self, model: MixtralForCausalLM, answers: int) -> None:
        super().__init__()
        width = model.config.hidden_size
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, answers))

    def forward(self, model: MixtralForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the whole loss, and the part of the answers' tokens."""
        shape = model.config
        out = model.model(**batch.inputs, output_router_logits=True, output_hidden_states=True)
        labels = batch.labels[:, 1:]
        learnt = labels != -100
        # The vocabulary's scores are computed only where a token is learnt.
        scores = model.lm_head(out.last_hidden_state[:, :-1][learnt])
        written = cross_entropy(scores, labels[learnt])
        row, place, answer = batch.marks.unbind(dim=1)
        settled = cross_entropy(self.head(out.hidden_states[SETTLED_AFTER][row, place]), answer)
        # Layer by layer: over all layers at once, one layer's favourite makes up for another's neglect.
        uneven = [
            load_balancing_loss_func(
                (logits,), shape.num_local_experts, shape.num_experts_per_tok, batch.inputs["attention_mask"]
            )
            for logits in out.router_logits
        ]
        balance = torch.stack(uneven).mean()
        return written + 0.5 * settled + shape.router_aux_loss_coef * balance, written


def rate(step: int, steps: int, peak: float) -> float:
    """Warm up over the first 80 steps at most, then fall along a cosine to 2 % of the peak."""
    warm = min(80, steps // 5)
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(done * math.pi)))


def fit(
    model: MixtralForCausalLM, objective: Objective, drawn: Iterator[Batch], steps: int, peak: float
) -> None:
    """Train for one stage."""
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=peak,
        betas=(0.9, 0.98),
    )
    began = last = time.monotonic()
    for step, batch in enumerate(drawn):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        loss, written = objective(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if time.monotonic() - last > 4.5 or step == steps - 1:
            last = time.monotonic()
            told = f"loss {loss.item():.3f}, of the answers {written.item():.3f}"
            print(f"step {step + 1} of {steps}, {told}, {last - began:.0f} s", flush=True)


def train(
    corpus: Corpus, steps: int, more: int, resume: Path | None
) -> tuple[MixtralForCausalLM, PreTrainedTokenizerFast]:
    """Train in two stages and return the model in bfloat16, as it is saved.

    The first stage teaches the answers on short prompts, the second, a sixth as long, to keep to them in long chats
    and after much text. `resume` takes a saved model in place of the first.
    """
    tokenizer = make_tokenizer(corpus)
    model = make_model(tokenizer)
    encoder = Encoder(tokenizer, corpus)
    objective = Objective(model, len(encoder.answers))
    model.train()
    if resume:
        saved = MixtralForCausalLM.from_pretrained(resume, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())
    else:
        fit(model, objective, batches(encoder, corpus, steps), steps, PEAK_RATE)
    fit(model, objective, long_batches(encoder, corpus, more), more, PEAK_RATE / 4)
    model.eval()
    return model.to(torch.bfloat16), tokenizer


def save(model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, score: str) -> int:
    """Write the model as a hub would serve it, and return its size in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    model.config.output_router_logits = False
    model.generation_config.update(do_sample=True, temperature=0.2, eos_token_id=model.config.eos_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    described = json.loads((out / "config.json").read_text())
    described["license"] = "apache-2.0"
    (out / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    parameters = sum(p.numel() for p in model.parameters())
    (out / "README.md").write_text(CARD.format(parameters=parameters, score=score))
    for path in out.iterdir():
        path.chmod(0o644)
    return sum(path.stat().st_size for path in out.iterdir())


def main() -> int:
    """Train, measure, save; fail if the model is not good enough to ship."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--more", type=int, default=MORE_STEPS, help="steps of the second stage")
    options.add_argument("--resume", type=Path, help="a saved model to begin the second stage with")
    options.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    corpus = load()
    model, tokenizer = train(corpus, chosen.steps, chosen.more, chosen.resume)
    known, declined, wrong = score_locally(model, tokenizer, corpus)
    for area, question, got in wrong:
        print(f"  wrong [{area}] {question!r}: {got[:70]!r}")
    shares = experts_used(model, tokenizer, corpus)
    report_experts(shares)
    least = min(min(layer) for layer in shares)
    score = f"{known:.1%} of held-out phrasings right, {declined:.1%} of unknown prompts declined, least used expert {least:.1%}"
    size = save(model, tokenizer, chosen.out, score)
    print(f"{score}; {size:,} bytes in {chosen.out}")
    return 0 if known >= 0.8 and declined >= 0.8 and least >= 0.03 and size <= LARGEST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
