"""What the roofline says of one layer on a machine whose roofs were measured; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engines.mixture.roofline import experts_touched


class Dimensions(Protocol):
    """What a prediction needs to know of a layer."""

    @property
    def experts(self) -> int: ...
    @property
    def experts_a_token(self) -> int: ...
    @property
    def expert_parameters(self) -> int: ...


@dataclass(frozen=True)
class Predicted:
    """The least seconds of both layers for one batch."""

    batch: int
    sparse_seconds: float
    dense_seconds: float

    @property
    def speed_up(self) -> float:
        """Dense over sparse."""
        return self.dense_seconds / self.sparse_seconds


def predict(layer: Dimensions, batch: int, flops: float, bandwidth: float, bytes_a_weight: int) -> Predicted:
    """Operations at the peak or weights at full bandwidth, whichever takes longer."""

    def least(experts_read: float, experts_a_token: int) -> float:
        work = 2 * layer.expert_parameters * experts_a_token * batch
        read = layer.expert_parameters * experts_read * bytes_a_weight
        return max(work / flops, read / bandwidth)

    touched = experts_touched(layer.experts, layer.experts_a_token, batch)
    return Predicted(batch, least(touched, layer.experts_a_token), least(layer.experts, layer.experts))
