"""What must be quick: the set-up that has nothing to do, and a killed worker's successor."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.supervise.terminal import Instance, wait_for
from tests.supervise.test_bootstrap import bootstrap, checkout

__all__ = ["checkout"]
pytestmark = pytest.mark.alone


def test_a_finished_environment_costs_next_to_nothing_and_says_nothing(checkout: Path) -> None:
    bootstrap(checkout)
    began = time.monotonic()
    again = bootstrap(checkout)
    assert (again.returncode, again.stderr) == (0, "")
    assert time.monotonic() - began < 1.5


def test_a_killed_worker_is_back_within_a_second_and_no_connection_is_refused(light: Instance) -> None:
    light.launch()
    light.until_up()
    victim = light.children["worker-1"]["pid"]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", light.port)):
        pass
    wait_for(lambda: light.children.get("worker-1", {}).get("pid") not in (None, victim))
    assert time.monotonic() - began < 1.0
    assert {light.answers() for _ in range(20)} <= {
        str(light.children[name]["pid"]) for name in ("worker-0", "worker-1")
    }
    assert "worker-1 ended (signal 9); starting it again" in light.screen
