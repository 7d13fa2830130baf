"""What a vLLM server says of itself: its version, what it works on, its counters.

All of it is asked over the address that calls use, so an engine that someone else runs is asked alike. One that does
not answer is told apart from one that has nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.errors import EngineError
from engines.transport import Transport

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
CACHE_ASKED = "vllm:prefix_cache_queries_total"
"""Prompt tokens that were looked up in the prefix cache."""
CACHE_FOUND = "vllm:prefix_cache_hits_total"
"""Those of them that were found."""


def summed(page: str) -> dict[str, float]:
    """A page of Prometheus' text format: each metric's samples added up over its labels."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        if not line or line[0] == "#":
            continue
        # A label's value may hold anything but a line break: the name ends before it, the value comes after.
        name = line.partition("{")[0].partition(" ")[0]
        rest = line.rpartition("}")[2] if "{" in line else line.partition(" ")[2]
        try:
            found[name] = found.get(name, 0.0) + float(rest.split()[0])
        except (ValueError, IndexError):
            continue
    return found


async def gauges(transport: Transport) -> Mapping[str, float] | None:
    """The server's metrics, None where it does not answer."""
    try:
        answer = await transport.get("/metrics")
    except EngineError:
        return None
    return summed(answer.body.decode(errors="replace")) if answer.status == 200 else None


async def at_work(transport: Transport) -> float:
    """How many requests it runs or has waiting; none where it does not answer."""
    found = await gauges(transport) or {}
    return found.get(RUNNING, 0.0) + found.get(WAITING, 0.0)


async def version(transport: Transport) -> str:
    """What it says it is, "" where it does not."""
    try:
        answer = await transport.get("/version")
        told: Any = msgspec.json.decode(answer.body)["version"]
    except (EngineError, msgspec.MsgspecError, KeyError, TypeError):
        return ""
    return told if isinstance(told, str) else ""
