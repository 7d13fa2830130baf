"""Many observations handed over at once count as they would one by one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram

from gateway.telemetry import _BUCKETS, _observe, forget_present


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


_KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from gateway.telemetry import Telemetry
from policies.usage import Usage
told = Telemetry(Path(sys.argv[1]))
call = SimpleNamespace(
    endpoint=SimpleNamespace(name="e"), api="a", received_ns=0, first_byte_ns=None, doubt=None, lease=None, entity=None
)
told.settled(call, "ok", Usage(fresh_input=5), 0, 10**9)
told.running = 3
told.refused("x")
told.came_late(0.03)
told.flush()
told.flush()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
_ASKED = """
import sys
from pathlib import Path
from gateway.telemetry import Telemetry
print(Telemetry(Path(sys.argv[1])).page().decode())
"""


def test_of_a_process_that_was_killed_its_counts_stay_once_each_and_its_gauges_go(tmp_path: Path) -> None:
    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (sys.executable, "-c", program, str(tmp_path)), capture_output=True, text=True, check=False
        )

    killed = run(_KILLED)
    assert killed.returncode == -signal.SIGKILL
    before = run(_ASKED).stdout.splitlines()
    assert "weighbridge_requests_running 3.0" in before
    forget_present(tmp_path, int(killed.stdout))
    after = run(_ASKED).stdout.splitlines()
    assert "weighbridge_requests_running 0.0" in after
    assert 'weighbridge_refused_total{code="x"} 1.0' in after
    assert 'weighbridge_requests_total{api="a",endpoint="e",status="ok"} 1.0' in after
    assert 'weighbridge_tokens_total{endpoint="e",kind="prompt"} 5.0' in after
    assert 'weighbridge_event_loop_late_seconds_bucket{le="0.02"} 0.0' in after
    assert 'weighbridge_event_loop_late_seconds_bucket{le="0.03"} 1.0' in after
