"""A deployment to declare into: the one of the admin tests, with a hand for files."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import httpx
import pytest

from gateway.declarative.yaml_text import load
from tests.admin.conftest import deployment, served, shared_deployment

__all__ = ["deployment", "served", "shared_deployment"]


class Files:
    """Plans and applies files, as the command does."""

    def __init__(self, deployment: Any) -> None:
        self.deployment = deployment

    async def plan(self, file: str, text: str, *, prune: bool = False, as_: str = "admin") -> httpx.Response:
        body = {"file": file, "document": load(text), "prune": prune}
        return await self.deployment.ask("POST", "/admin/v1/declarations:plan", as_, json=body)

    async def apply(
        self, file: str, text: str, *, prune: bool = False, plan: str | None = None, as_: str = "admin"
    ) -> httpx.Response:
        body = {
            "file": file, "document": load(text), "prune": prune, "plan": plan,
            "sha256": sha256(text.encode()).hexdigest(),
        }  # fmt: skip
        return await self.deployment.ask("POST", "/admin/v1/declarations:apply", as_, json=body)

    async def steps(self, file: str, text: str, *, prune: bool = False) -> dict[str, str]:
        """What the plan does, by the object's kind and name."""
        answer = await self.plan(file, text, prune=prune)
        assert answer.status_code == 200, answer.text
        return {f"{each['kind']} {each['name']}": each["action"] for each in answer.json()["steps"]}

    async def applied(self, file: str, text: str, *, prune: bool = False) -> Any:
        answer = await self.apply(file, text, prune=prune)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def named(self, path: str, name: str) -> Any:
        """The object of that name, or None."""
        found = (await self.deployment.ask("GET", f"/admin/v1/{path}?name={name}")).json()["items"]
        return next((each for each in found if each["name"] == name), None)


@pytest.fixture
def files(deployment: Any) -> Files:
    return Files(deployment)
