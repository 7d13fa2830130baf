"""The prediction and the picture of the layer's figure; the timing itself is a benchmark, not a test."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.layer.picture import draw
from bench.layer.prediction import predict


class Mixtral:
    experts = 8
    experts_a_token = 2
    expert_parameters = 3 * 4096 * 14336


@pytest.mark.parametrize(
    ("batch", "speed_up"),
    # 1e12 operations and 1e11 bytes a second: reading bounds small batches, computing large ones.
    [(1, 4.0), (2, 2.29), (4096, 4.0)],
)
def test_the_roofline_predicts_four_times_at_both_ends_and_less_between(batch: int, speed_up: float) -> None:
    assert predict(Mixtral(), batch, 1e12, 1e11, 2).speed_up == pytest.approx(speed_up, abs=0.01)
    assert predict(Mixtral(), 8, 1e12, 1e11, 2).speed_up < 1.5


def test_the_picture_is_well_formed_and_has_a_point_for_every_measurement() -> None:
    drawn = draw([1, 2, 4], [0.5, 1.5, 2.0], [4.0, 2.3, 1.4], "A <layer>", "here & now")
    root = ElementTree.fromstring(drawn)
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 6
