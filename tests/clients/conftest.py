"""A gateway for the official clients: the oracle behind it, or the real engine for tests marked `engine`."""

from __future__ import annotations

import pytest

from tests.system.conftest import gateway, homes, module_redis, people, seed, upstream
from tests.system.deployment import Deployment

__all__ = ["gateway", "homes", "module_redis", "people", "seed", "upstream"]


@pytest.fixture(scope="module")
def workers() -> int:
    """One is enough to speak to."""
    return 1


@pytest.fixture
def as_user(gateway: Deployment, monkeypatch: pytest.MonkeyPatch):
    """Point Databricks' clients here as a user: the two variables, and nothing else."""

    def choose(name: str = "demo", key: str | None = None) -> None:
        for other in ("DATABRICKS_CONFIG_PROFILE", "DATABRICKS_CONFIG_FILE", "MLFLOW_TRACKING_TOKEN"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv("DATABRICKS_HOST", gateway.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", key or gateway.keys[name])

    return choose
