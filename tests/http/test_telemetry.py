"""Many observations handed over at once count as they would one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram

from gateway.telemetry import _BUCKETS, _observe


@given(st.lists(st.one_of(st.integers(0, 10**12), st.sampled_from([int(each * 1e9) for each in _BUCKETS]))))
def test_a_histogram_filled_at_once_is_the_one_filled_singly(times_ns: list[int]) -> None:
    at_once, singly = (Histogram("x", "x", buckets=_BUCKETS, registry=None) for _ in range(2))
    _observe(at_once, times_ns)
    for each in times_ns:
        singly.observe(each / 1e9)
    found, expected = (_samples(each) for each in (at_once, singly))
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 1e-6 * (1 + expected[key]) for key in expected)


def _samples(histogram: Histogram) -> dict[tuple[str, str], float]:
    (metric,) = histogram.collect()
    return {
        (each.name, str(each.labels)): each.value for each in metric.samples if "_created" not in each.name
    }
