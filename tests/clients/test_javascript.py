"""JavaScript's clients as they are published: OpenAI's, Anthropic's and Vercel's AI SDK, in one process of node.

Their versions are locked in tests/clients/javascript; without node, npm or a registry the reason is told and the test skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.apart import run
from tests.clients.environments import JAVASCRIPT, CannotBeMade, javascript
from tests.system.deployment import Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")
SAID = " ".join(f"w{n}" for n in range(1, 13))
FOUND = {"query": "q0", "limit": 0}
SDK = {
    "400": "BadRequestError",
    "401": "AuthenticationError",
    "403": "PermissionDeniedError",
    "404": "NotFoundError",
    "429": "RateLimitError",
    "5xx": "InternalServerError",
}
STATUSES = {"5xx": "502"}


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"poor": Person((limit("requests", 0),))}


@pytest.fixture(scope="module")
def node() -> Path:
    """A folder with the clients installed and the program beside them."""
    try:
        folder = javascript()
    except CannotBeMade as why:
        pytest.skip(f"the clients cannot be installed: {why}")
    shutil.copy(JAVASCRIPT / "speaks.mjs", folder)
    return folder


async def test_javascript_clients(gateway: Deployment, node: Path) -> None:
    found: dict[str, Any] = await run(gateway, ("demo", "stranger", "poor"), "node", "speaks.mjs", cwd=node)
    assert set(found) == {"chat", "responses", "messages", "ai chat", "ai responses", "ai messages"}
    for kind, each in found.items():
        assert (each["plain"], each["stream"], each["output"]) == (SAID, SAID, 12), kind
        assert each["tools"] == [FOUND, FOUND], kind
        ai = kind.startswith("ai ")
        assert each["structured"] == (["limit", "query"] if ai else {"a": 1}), kind
        for status, class_ in SDK.items():
            thrown = each["refusals"][status]
            assert ("AI_APICallError" if ai else class_) in thrown, (kind, status, thrown)
            assert STATUSES.get(status, status) in thrown, (kind, status, thrown)
        assert each["breaks"] != ["nothing"], kind
    assert found["chat"]["breaks"][0] == "APIError"
    assert found["responses"]["breaks"] == ["response.failed"]
    assert found["messages"]["breaks"][0] == "APIError"
