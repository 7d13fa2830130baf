"""The upstream's other routes: vLLM's own GETs, and `/oracle` for tests that run it as a process of its own.

    GET    /oracle[?request_id=...]   every record, or one request's attempts
    GET    /oracle/summary            counts
    POST   /oracle/script             a script (text or object) or a list of them, each for one request
    DELETE /oracle/script             forget what is queued
    PUT    /oracle/default            the script of everything else
    POST   /oracle/refuse             {"seconds": 2}: refuse connections so long, and reset the open ones
    POST   /oracle/reset              forget finished records

A request that cannot be understood is answered 400 and changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from tests.faults import answers
from tests.faults.http11 import plain_head
from tests.faults.script import Script, parse_script, script_of

if TYPE_CHECKING:
    from tests.faults.upstream import Upstream


def engine_route(upstream: Upstream, path: str) -> bytes:
    """What vLLM answers to GET."""
    match path:
        case "/v1/models":
            return _body(200, answers.models_answer(upstream.models))
        case "/health" | "/ping":
            return _body(200, b"")
        case "/version":
            return json_answer(200, {"version": "0.32.0"})
        case "/load":
            return json_answer(200, {"server_load": upstream.running})
        case "/metrics":
            return _body(200, _metrics(upstream).encode(), "text/plain; version=0.0.4; charset=utf-8")
        case _:
            return json_answer(404, {"detail": "Not Found"})


def _metrics(upstream: Upstream) -> str:
    labels = f'{{engine="0",model_name="{upstream.models[0]}"}}'
    values = {
        "num_requests_running": (upstream.running, "gauge"),
        "num_requests_waiting": (0, "gauge"),
        "kv_cache_usage_perc": (0, "gauge"),
        "prompt_tokens_total": (upstream.journal.prompt_tokens, "counter"),
        "generation_tokens_total": (upstream.journal.emitted, "counter"),
    }
    lines = [
        f"# TYPE vllm:{name} {kind}\nvllm:{name}{labels} {float(v)}" for name, (v, kind) in values.items()
    ]
    return "\n".join(lines) + "\n"


def oracle_route(upstream: Upstream, method: str, path: str, query: str, body: bytes) -> bytes:
    """What the oracle is asked and told by a test in another process."""
    try:
        match method, path:
            case "GET", "/oracle":
                wanted = parse_qs(query).get("request_id")
                records = [r for r in upstream.records if wanted is None or r.request_id in wanted]
                return _body(200, msgspec.json.encode(records))
            case "GET", "/oracle/summary":
                return json_answer(200, _summary(upstream))
            case "POST", "/oracle/script":
                values = msgspec.json.decode(body)
                scripts = [_script(value) for value in (values if isinstance(values, list) else [values])]
                upstream.scripts.program(*scripts)
                return json_answer(200, {"queued": len(upstream.scripts.queue)})
            case "DELETE", "/oracle/script":
                upstream.scripts.queue.clear()
                return json_answer(200, {"queued": 0})
            case "PUT", "/oracle/default":
                upstream.scripts.default = _script(msgspec.json.decode(body))
                return json_answer(200, {"default": upstream.scripts.default.source})
            case "POST", "/oracle/refuse":
                _refuse_for(upstream, float(msgspec.json.decode(body)["seconds"]))
                return json_answer(200, {})
            case "POST", "/oracle/reset":
                upstream.journal.forget()
                upstream.received.clear()
                return json_answer(200, {})
            case _:
                return json_answer(404, {"detail": "Not Found"})
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        return json_answer(400, answers.error_answer(400, str(error)))


def _summary(upstream: Upstream) -> dict[str, Any]:
    ended: dict[str, int] = {}
    for record in upstream.records:
        ended[record.ended] = ended.get(record.ended, 0) + 1
    tokens = {"prompt_tokens": upstream.journal.prompt_tokens, "emitted": upstream.journal.emitted}
    return {"requests": len(upstream.records), "running": upstream.running, **tokens, "ended": ended}


def _refuse_for(upstream: Upstream, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    kept: set[asyncio.Task[None]] = set()

    async def away() -> None:
        await upstream.refuse()
        await asyncio.sleep(seconds)
        await upstream.accept()
        kept.clear()

    # After this turn, so that the answer to the request itself is sent.
    loop.call_later(0.01, lambda: kept.add(loop.create_task(away())))


def _script(value: Any) -> Script:
    return parse_script(value) if isinstance(value, str) else script_of(value)


def _body(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    return plain_head(status, len(body), "", content_type) + body


def json_answer(status: int, value: object) -> bytes:
    """A whole answer with a JSON body."""
    return _body(status, answers.encode(value))
