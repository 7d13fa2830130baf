"""What vLLM's metrics page says is added up over its labels, and silence is told from nothing to do."""

from __future__ import annotations

import pytest

from engines.http1.transport import Http1Transport
from engines.local.gauges import at_work, gauges, summed, version
from tests.faults.upstream import Upstream

PAGE = """\
# HELP vllm:prefix_cache_hits_total Cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="a{b} c"} 128.0
vllm:prefix_cache_hits_total{engine="1",model_name="a{b} c"} 64.0
process_start_time_seconds 1.7e+09
vllm:num_requests_running{engine="0"} 2.0 1700000000
not a number at_all

"""


def test_samples_of_one_metric_are_added_up_whatever_their_labels_hold() -> None:
    assert summed(PAGE) == {
        "vllm:prefix_cache_hits_total": 192.0,
        "process_start_time_seconds": 1.7e9,
        "vllm:num_requests_running": 2.0,
    }


@pytest.mark.parametrize("page", ["", "#", "{", "}", "name", "name{", "name{} ", "name nan-ish"])
def test_a_page_that_makes_no_sense_says_nothing(page: str) -> None:
    assert summed(page) == {}


async def test_an_engine_that_is_away_is_not_one_that_is_idle() -> None:
    async with Upstream() as upstream:
        there = Http1Transport(upstream.url)
        assert await gauges(there) is not None
        assert await at_work(there) == 0
        assert await version(there)
        await upstream.refuse()
        assert await gauges(there) is None
        assert await version(there) == ""
        await there.aclose()
