"""Time a sparse feed-forward layer and the equal dense one in torch, over batch sizes; and the machine's own roofs.

The dense layer is as wide as all experts together, so both hold the same weights. The sparse one is computed as
engines do: a router, its tokens gathered by expert, each expert's three products, the results added back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import silu


@dataclass(frozen=True)
class Layer:
    """The dimensions of one layer."""

    hidden: int
    width: int
    """Of one expert."""
    experts: int
    experts_a_token: int

    @property
    def expert_parameters(self) -> int:
        """Three matrices."""
        return 3 * self.hidden * self.width


@dataclass(frozen=True)
class Roofs:
    """What the machine reaches at the best: operations and bytes a second, by measurement."""

    flops: float
    bandwidth: float

    def or_better(self, other: Roofs) -> Roofs:
        """The higher of each: no measurement reaches more than there is."""
        return Roofs(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))


@dataclass(frozen=True)
class Timed:
    """Median seconds of one batch size, and how many experts it touched."""

    batch: int
    sparse_seconds: float
    dense_seconds: float
    experts_touched: float


class Weights:
    """Random weights of both layers: the dense one is a view of the experts' own memory, so that neither is cached better."""

    def __init__(self, layer: Layer, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(7)

        def made(*shape: int) -> torch.Tensor:
            return (torch.randn(*shape, generator=generator) * 0.02).to(device=device, dtype=dtype)

        self.layer = layer
        self.router = made(layer.experts, layer.hidden)
        self.gate = made(layer.experts * layer.width, layer.hidden)
        self.up = made(layer.experts * layer.width, layer.hidden)
        self.down = made(layer.experts * layer.width, layer.hidden)

    def dense(self, tokens: torch.Tensor) -> torch.Tensor:
        """Every token through all of the width."""
        return (silu(tokens @ self.gate.T) * (tokens @ self.up.T)) @ self.down

    def sparse(self, tokens: torch.Tensor) -> torch.Tensor:
        """Every token through the experts that the router gives it."""
        layer = self.layer
        chosen, scores = self.choose(tokens)
        out = torch.zeros_like(tokens)
        for expert in range(layer.experts):
            rows, slots = torch.where(chosen == expert)
            if rows.numel() == 0:
                continue
            part = slice(expert * layer.width, (expert + 1) * layer.width)
            taken = tokens[rows]
            done = (silu(taken @ self.gate[part].T) * (taken @ self.up[part].T)) @ self.down[part]
            out.index_add_(0, rows, done * scores[rows, slots, None])
        return out

    def choose(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch x experts a token): which experts, and their weights."""
        found = torch.topk(tokens @ self.router.T, self.layer.experts_a_token, dim=-1)
        return found.indices, torch.softmax(found.values, dim=-1)


def time_layers(weights: Weights, batches: list[int], rounds: int) -> list[Timed]:
    """Both layers in turn, so that what else the machine does meets both alike."""
    found: list[Timed] = []
    device, dtype = weights.router.device, weights.router.dtype
    generator = torch.Generator().manual_seed(11)
    for batch in batches:
        tokens = torch.randn(batch, weights.layer.hidden, generator=generator).to(device=device, dtype=dtype)
        sparse: list[float] = []
        dense: list[float] = []
        for _ in range(rounds):
            sparse.append(_seconds(lambda tokens=tokens: weights.sparse(tokens), device))
            dense.append(_seconds(lambda tokens=tokens: weights.dense(tokens), device))
        touched = torch.unique(weights.choose(tokens)[0]).numel()
        found.append(Timed(batch, _median(sparse), _median(dense), touched))
    return found


def measure_roofs(device: torch.device, dtype: torch.dtype, rounds: int) -> Roofs:
    """The fastest of several large products, and of several readings of memory that no cache holds."""
    side = 2048 if device.type == "cpu" else 8192
    left = torch.randn(side, side, device=device, dtype=dtype)
    product = min(_seconds(lambda: left @ left, device) for _ in range(rounds))
    # A product with one vector reads the matrix once and computes next to nothing.
    wide = torch.randn(16384, 8192, device=device, dtype=dtype)
    vector = torch.randn(8192, 1, device=device, dtype=dtype)
    reading = min(_seconds(lambda: wide @ vector, device) for _ in range(rounds))
    return Roofs(2 * side**3 / product, wide.numel() * wide.element_size() / reading)


def _seconds(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    # A single thread's own time on the processor: what else the machine does would be counted by the clock on the wall.
    clock = time.process_time if torch.get_num_threads() == 1 and device.type == "cpu" else time.perf_counter
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
