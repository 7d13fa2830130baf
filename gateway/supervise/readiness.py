"""Says when everything is ready and, until then, what is missing: of an instance's stores and engine, in a person's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from gateway.embedded.postgres import OWNER, EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.engine_notes import read_note
from gateway.settings import Settings
from gateway.supervise.probe import answer_of
from gateway.supervise.screen import Screen, address

_PATIENCE = 4.0
_SOMEONE_ELSES = 60.0
"""Someone else's engine may stay away for hours: after two minutes a line a minute is enough."""


async def watch_readiness(
    settings: Settings, screen: Screen, *, own_engine: bool, given_up: Callable[[], bool]
) -> None:
    """Until all is ready say what is missing, at least every five seconds; `given_up`: the engine is not tried again."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    said = began
    while True:
        status, body = await answer_of(settings, "/readyz")
        if status == 200:
            screen.say(
                f"{'Engine' if own_engine else 'Everything'}: ready after {screen.seconds:.1f} s; "
                f"{address(settings)} answers calls"
            )
            return
        if given_up():
            note = read_note(settings.home / "run")
            why = note.detail if note is not None and note.detail else "see `weighbridge logs engine`"
            screen.say(f"Engine: given up ({why}); the gateway runs on without it")
            return
        patience = _PATIENCE if own_engine or said - began < 120 else _SOMEONE_ELSES
        if loop.time() - said >= patience:
            said = loop.time()
            screen.say(f"{_missing(settings, body, own_engine=own_engine)}, {said - began:.0f} s")
        await asyncio.sleep(0.5)


def stores_shown(
    settings: Settings, postgres: EmbeddedPostgres | None, redis: EmbeddedRedis | None
) -> dict[str, str]:
    """Where the stores are, for the closing screen; None is one that is not ours."""
    where = "embedded" if postgres is not None else "yours (WEIGHBRIDGE_DATABASE_URL)"
    if postgres is not None and settings.pg_port is not None:
        where += f", also 127.0.0.1:{settings.pg_port} (user {OWNER}, password in {postgres.password_file})"
    return {
        "PostgreSQL": f"{where}; look inside with `weighbridge sql`",
        "Redis": "embedded" if redis is not None else "yours (WEIGHBRIDGE_REDIS_URL)",
    }


def engine_shown(settings: Settings, *, own_engine: bool) -> str:
    """Where the engine is, for the closing screen."""
    if own_engine:
        many = f"{settings.engine_replicas} replicas " if settings.engine_replicas > 1 else ""
        return f"{many}starting; until one is up, calls are answered with 503 and retry-after"
    return settings.engine_url or "none (WEIGHBRIDGE_ENGINE=none)"


def _missing(settings: Settings, readiness: str, *, own_engine: bool) -> str:
    """What is not ready yet, in the words of the engine's own note or of /readyz."""
    if own_engine:
        note = read_note(settings.home / "run")
        phase, detail = ("starting", "") if note is None else (note.phase, note.detail)
        return f"Engine: {phase}{f' ({detail})' if detail else ''}"
    try:
        parts: dict[str, str] = json.loads(readiness)["parts"]
        faults = [f"{name}: {text}" for name, text in parts.items() if text != "ok"]
    except (ValueError, KeyError, TypeError, AttributeError):
        faults = ["no answer"]
    return f"Not ready yet ({'; '.join(faults)})"
