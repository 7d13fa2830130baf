"""Measure the demonstration model: right answers to held-out phrasings, refusals of unknown prompts, use of experts.

An answer is right when it is the taught one word for word.
"""

from __future__ import annotations

import torch
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

from engines.local.model.corpus import REFUSAL, Corpus

Wrong = list[tuple[str, str, str]]


def answer_all(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[str]
) -> list[str]:
    """Answer each question greedily, in batches, left-padded."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
    answers = [""] * len(questions)
    for at in range(0, len(order), 96):
        chosen = order[at : at + 96]
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": questions[index]}], tokenize=False)
            for index in chosen
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            made = model.generate(
                **batch, max_new_tokens=170, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        for index, row in zip(chosen, made[:, batch["input_ids"].shape[1] :], strict=True):
            answers[index] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return answers


def score_locally(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> tuple[float, float, Wrong]:
    """Return the share of held-out phrasings answered right, of unknown prompts declined, and what was wrong."""
    model.config.output_router_logits = False
    known = corpus.held()
    answers = answer_all(model, tokenizer, [q for _, q, _ in known])
    wrong = [
        (area, question, got)
        for (area, question, answer), got in zip(known, answers, strict=True)
        if got != answer
    ]
    share = 1 - len(wrong) / len(known)
    areas = sorted({area for area, _, _ in known})
    for area in areas:
        total = sum(1 for a, _, _ in known if a == area)
        missed = sum(1 for a, _, _ in wrong if a == area)
        print(f"  {area}: {total - missed} of {total} held-out phrasings right")
    refused = answer_all(model, tokenizer, list(corpus.unknown_held))
    given = [
        ("unknown", q, got) for q, got in zip(corpus.unknown_held, refused, strict=True) if got != REFUSAL
    ]
    print(f"  unknown: {len(refused) - len(given)} of {len(refused)} declined")
    return share, 1 - len(given) / len(refused), [*wrong, *given]


def experts_used(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> list[list[float]]:
    """Return, for each layer, the share of tokens' choices that fell on each expert, over the held-out dialogues."""
    counts = torch.zeros(model.config.num_hidden_layers, model.config.num_local_experts)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for _, question, answer in corpus.held()
    ]
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids, output_router_logits=True).router_logits
        for layer, scores in enumerate(logits):
            best = scores.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten()
            counts[layer] += torch.bincount(best, minlength=model.config.num_local_experts)
    return (counts / counts.sum(dim=-1, keepdim=True)).tolist()


def report_experts(shares: list[list[float]]) -> None:
    """Print the use of experts by layer and overall."""
    for layer, row in enumerate(shares):
        print(f"  layer {layer}: experts take " + " ".join(f"{share:.1%}" for share in row))
    overall = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
    print("  overall: experts take " + " ".join(f"{share:.1%}" for share in overall))
