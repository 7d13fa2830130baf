"""`make soak MINUTES=5`: load with kills and outages for so long, then the books. Not part of `make test`."""

from __future__ import annotations

import pytest

from tests.system.conftest import gateway, homes, module_redis, people, seed, upstream, workers

__all__ = ["gateway", "homes", "module_redis", "people", "seed", "upstream", "workers"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=5.0, help="how long the soak kills and stops parts")
    parser.addoption("--kills", type=int, default=0, help="go on until so many kills, however long it takes")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only where it is asked for by name."""
    asked = any("soak" in str(argument) for argument in config.invocation_params.args)
    return None if asked else True
