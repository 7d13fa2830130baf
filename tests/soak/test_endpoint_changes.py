"""How soon all of four workers answer by a change of an endpoint: 120 changes through the official clients.

`make soak ARGS="-k endpoint_changes -s"` prints what was measured, from the moment when the client had its answer.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import EndpointCoreConfigInput, Route, ServedEntityInput, TrafficConfig
from mlflow.deployments import get_deploy_client

from tests.clients.conftest import as_user
from tests.system.asking import Answer
from tests.system.deployment import Deployment
from tests.system.each_worker import Kept, answered_by, each_worker, refused_with, until_each

__all__ = ["as_user"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]

_ROUNDS = 20
_ASKED_SECONDS = 1.0
_MODELS = {"first": "mixtral-demo@delay=1ms", "second": "mixtral-demo@delay=2ms"}
_ENTITIES = [{"name": name, "entity_name": model} for name, model in _MODELS.items()]
_TYPED = [ServedEntityInput(**each) for each in _ENTITIES]
_FIRST, _SECOND = (answered_by(model) for model in _MODELS.values())


@pytest.fixture(scope="module")
def workers() -> int:
    return 4


class Watch:
    """Makes changes, and times each of them until every worker answers by it."""

    def __init__(self, gateway: Deployment, connections: list[Kept]) -> None:
        self._gateway = gateway
        self._connections = connections
        self.took: dict[str, list[float]] = {}

    async def change(
        self, kind: str, endpoint: str, holds: Callable[[Answer], bool], call: Any, *given: Any, **named: Any
    ) -> Any:
        """What the client's call gave."""
        result = await asyncio.to_thread(call, *given, **named)
        await self.seen(kind, endpoint, holds)
        return result

    async def seen(self, kind: str, endpoint: str, holds: Callable[[Answer], bool]) -> None:
        """Note how long it takes from now."""
        seconds = await until_each(self._connections, holds, self._gateway.admin_key, endpoint)
        self.took.setdefault(kind, []).append(seconds)


def shares(first: int) -> TrafficConfig:
    """A split in per cent."""
    return TrafficConfig(
        routes=[
            Route(served_entity_name="first", traffic_percentage=first),
            Route(served_entity_name="second", traffic_percentage=100 - first),
        ]
    )


async def test_all_workers_answer_by_a_change_within_a_second(gateway: Deployment, as_user: Any) -> None:
    as_user(key=gateway.admin_key)
    mlflow, sdk = get_deploy_client("databricks"), WorkspaceClient().serving_endpoints
    async with each_worker(gateway) as connections:
        watch = Watch(gateway, connections)
        for number in range(_ROUNDS):
            name = f"changes-{number}"
            if number % 2:
                whole = EndpointCoreConfigInput(name=name, served_entities=_TYPED[:1])
                made = await watch.change("created", name, _FIRST, sdk.create_and_wait, name, config=whole)
                identity = made.id
                update = sdk.update_config_and_wait
                await watch.change("updated", name, _SECOND, update, name, served_entities=_TYPED[1:])
            else:
                config = {"config": {"served_entities": _ENTITIES[:1]}}
                made = await watch.change("created", name, _FIRST, mlflow.create_endpoint, name, config)
                identity = made["id"]
                changed = {"served_entities": _ENTITIES[1:]}
                await watch.change("updated", name, _SECOND, mlflow.update_endpoint_config, name, changed)
            for first, holds in ((100, _FIRST), (0, _SECOND)):
                split: dict[str, Any] = {"served_entities": _TYPED, "traffic_config": shares(first)}
                await watch.change("split", name, holds, sdk.update_config_and_wait, name, **split)
            back = await gateway.ask(
                "POST",
                f"/admin/v1/endpoints/{identity}/rollback",
                {"config_version": 1},
                key=gateway.admin_key,
                headers=[("if-match", "*")],
            )
            assert back.status == 200, back
            await watch.seen("rolled back", name, _FIRST)
            delete = sdk.delete if number % 2 else mlflow.delete_endpoint
            await watch.change("deleted", name, refused_with(404), delete, name)
    every = sorted(each for times in watch.took.values() for each in times)
    cuts = statistics.quantiles(every, n=100)
    print(f"{len(every)} changes: p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, the slowest {every[-1]:.3f} s")
    for kind, times in watch.took.items():
        print(f"  {kind}: {len(times)}, p50 {statistics.median(times):.3f} s, the slowest {max(times):.3f} s")
    assert cuts[98] < _ASKED_SECONDS
