"""Which cores a pinned worker keeps to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.share import share_of


@given(cores=st.sets(st.integers(0, 255), min_size=1, max_size=64), workers=st.integers(1, 64))
def test_workers_share_all_cores_and_no_core_has_two_of_them(cores: set[int], workers: int) -> None:
    shares = [share_of(cores, index, workers) for index in range(workers)]
    assert frozenset[int]().union(*shares) == cores
    if workers <= len(cores):
        assert sum(len(each) for each in shares) == len(cores)
        assert all(shares)
    else:
        assert all(each == cores for each in shares)


def test_a_share_is_of_neighbours() -> None:
    assert [sorted(share_of(range(8), index, 3)) for index in range(3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
