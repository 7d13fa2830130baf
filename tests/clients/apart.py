"""Clients that run apart: programs in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.system.deployment import ENDPOINT, ROOT, Deployment

SECONDS = 240.0
_FOREIGN = ("OPENAI", "ANTHROPIC", "LANGCHAIN", "LANGSMITH", "LITELLM", "NODE_")


async def run(
    gateway: Deployment,
    people: Sequence[str],
    *command: str | Path,
    cwd: Path = ROOT,
    more: Mapping[str, str] | None = None,
) -> Any:
    """What a program says it found, as the last line that it writes; it knows the gateway and those people's keys."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment |= {
        "GATEWAY": gateway.url,
        "MODEL": ENDPOINT,
        "KEYS": json.dumps({name: gateway.keys[name] for name in people}),
        **(more or {}),
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + err).decode()[-3000:]
    return json.loads(out.splitlines()[-1])
