"""A line for each replica of the local engine, for `weighbridge status`.

Each is asked at its address, whoever runs it; what only its supervisor knows comes from the supervisor's note.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from engines.errors import EngineError
from engines.http1.transport import Http1Transport
from engines.local import gauges
from gateway.engine_notes import EngineNote, ReplicaNote


async def engine_lines(addresses: Sequence[str], note: EngineNote | None) -> list[str]:
    """How each replica stands, in the order of their addresses."""
    known = {each.address: each for each in note.replicas} if note is not None else {}
    return await asyncio.gather(
        *(
            _line(number, address.strip(), known.get(address.strip()))
            for number, address in enumerate(addresses)
        )
    )


async def _line(number: int, address: str, note: ReplicaNote | None) -> str:
    transport = Http1Transport(address.removesuffix("/").removesuffix("/v1"))
    try:
        answers = (await transport.get("/health")).status == 200
        version = await gauges.version(transport) if answers else ""
        busy = await gauges.at_work(transport) if answers else 0.0
    except EngineError:
        answers, version, busy = False, "", 0.0
    finally:
        await transport.aclose()
    told = [_standing(answers, note)]
    if version:
        told.append(f"vLLM {version}")
    if answers:
        told.append(f"{busy:.0f} calls")
    if note is not None and note.pid is not None:
        told.append(f"process {note.pid}")
    if note is not None and note.starts > 1:
        told.append(f"started {note.starts}x")
    return f"{f'engine {number}':<12}{', '.join(told)}  at {address}"


def _standing(answers: bool, note: ReplicaNote | None) -> str:
    if note is None:
        return "answers" if answers else "does not answer"
    since = f" for {max(0.0, time.time() - note.since):.0f} s" if note.since else ""
    if note.phase == "ready" and not answers:
        return f"does not answer, ready{since}"
    detail = f" ({note.detail})" if note.detail and note.phase != "ready" else ""
    return f"{note.phase}{since}{detail}"
