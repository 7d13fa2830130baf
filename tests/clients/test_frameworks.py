"""Python's frameworks as they are published: plain, streamed, with tools, in a shape, and with their own classes for refusals.

Each runs in a process of its own. Those that need another version of a client than the project's are in an environment of
their own, made from locks/clients.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.apart import run
from tests.clients.environments import CannotBeMade, frameworks
from tests.system.deployment import ROOT, Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")
PEOPLE = ("demo", "stranger", "poor")
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
PYDANTIC = {
    "400": "ModelRequestRejectedError",
    "401": "ModelAuthenticationError",
    "403": "ModelAuthenticationError",
    "404": "ModelNotFoundError",
    "429": "ModelHTTPError",
    "5xx": "ModelServerError",
}
# litellm has no class for 403 of a provider of OpenAI's dialect.
LITELLM = {**SDK, "403": "APIError", "5xx": "BadGatewayError"}
STATUSES = {"5xx": "502"}


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"poor": Person((limit("requests", 0),))}


@pytest.fixture(scope="module")
def apart() -> Path:
    """The Python of the environment that is made from locks/clients.txt."""
    try:
        return frameworks()
    except CannotBeMade as why:
        pytest.skip(f"the environment of these clients cannot be made: {why}")


async def speak(gateway: Deployment, python: Path | str, program: str) -> Any:
    """What a program of tests/clients/programs found, by kind of call."""
    more = {"PYTHONPATH": str(ROOT), "LANGSMITH_TRACING": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return await run(
        gateway, PEOPLE, python, "-W", "ignore", "-m", f"tests.clients.programs.{program}", more=more
    )


def holds(found: dict[str, Any], classes: dict[str, str], breaks: str) -> None:
    """One kind of call went as it must: `classes` and `breaks` are what refusals and a broken stream raise."""
    if "plain" in found:
        assert (found["plain"], found["stream"]) == (SAID, SAID)
        assert all(each["output_tokens"] == 12 and each["input_tokens"] > 0 for each in found["usage"])
    for name in ("tools", "streamed_tools"):
        assert found.get(name, [FOUND]) == [FOUND]
    assert set(found["refusals"]) == set(classes)
    for status, raised in found["refusals"].items():
        assert classes[status] in raised, (status, raised)
        assert STATUSES.get(status, status) in raised, (status, raised)
    assert breaks in found["breaks"], found["breaks"]


async def test_langchain(gateway: Deployment) -> None:
    found = await speak(gateway, sys.executable, "speaks_langchain")
    for kind, breaks in (("chat", "APIError"), ("responses", "ValueError"), ("messages", "APIStatusError")):
        holds(found[kind], SDK, breaks)
        assert found[kind]["structured"] == {"a": 1}


async def test_pydantic_ai(gateway: Deployment) -> None:
    found = await speak(gateway, sys.executable, "speaks_pydantic_ai")
    for kind, shaped in (("chat", {"a": 1}), ("responses", {"a": 1}), ("messages", None)):
        holds(found[kind], PYDANTIC, "ModelServerError")
        assert found[kind]["structured"] == shaped
    # Whoever has no room at all is told so: waiting would not help.
    assert "ModelQuotaExceededError" in found["chat"]["refusals"]["429"]


async def test_instructor(gateway: Deployment, apart: Path) -> None:
    found = (await speak(gateway, apart, "speaks_instructor"))["chat"]
    # Its own exception, with the SDK's as the cause.
    holds(found, SDK, "APIError")
    assert found["structured"] == {"a": 1}
    assert found["refusals"]["400"][0] == "InstructorRetryException"


async def test_litellm(gateway: Deployment, apart: Path) -> None:
    found = await speak(gateway, apart, "speaks_litellm")
    holds(found["chat"], LITELLM, "ServiceUnavailableError")
    holds(found["messages"], {**LITELLM, "403": "PermissionDeniedError"}, "ServiceUnavailableError")
    # It asks Anthropic's dialect for a shape by a tool of its own, which the scripted model fills as any tool.
    assert (found["chat"]["structured"], found["messages"]["structured"]) == ({"a": 1}, FOUND)
