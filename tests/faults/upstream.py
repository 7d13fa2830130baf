"""A scriptable OpenAI-shaped upstream as vLLM is one, in this process or its own: the oracle of every system test.

    async with Upstream() as upstream:               # or: python -m tests.faults.upstream --port 9900
        upstream.scripts.program(parse_script("tokens=64 delay=5ms"))
        ...
        assert upstream.journal.of(request_id)[0].emitted == 64

Whatever a script makes it do to its peer, its own count stays true.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.faults.answers import embeddings_answer, error_answer
from tests.faults.ask import Ask, count_prompt_tokens, decode_ask
from tests.faults.connection import Connection
from tests.faults.exchange import Exchange
from tests.faults.http11 import send_reset
from tests.faults.journal import Journal, OracleRecord
from tests.faults.oracle_api import engine_route, json_answer, oracle_route
from tests.faults.plan import Plan, plan_plain, plan_stream
from tests.faults.script import DEFAULT, BadScript, Script, Scripts, parse_script

_CHAT, _TEXT, _EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_PLANS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: bytes


class Upstream:
    """The server. `keep_requests` holds headers and body of every request but GET in `received`."""

    def __init__(
        self,
        *,
        journal: str | os.PathLike[str] | None = None,
        journal_at_once: bool = False,
        default: Script = DEFAULT,
        models: tuple[str, ...] = ("mixtral-demo",),
        strict_models: bool = False,
        api_key: str | None = None,
        keep_requests: bool = True,
    ) -> None:
        self.journal = Journal(journal, at_once=journal_at_once)
        self.scripts = Scripts(default)
        self.models = models
        self.received: list[Received] = []
        self.connections: set[Connection] = set()
        self._strict_models = strict_models
        self._api_key = api_key
        self._keep_requests = keep_requests
        self._seq = 0
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._server: asyncio.Server | None = None
        self._uds: str | None = None
        self._host, self.port = "127.0.0.1", 0
        self._loop: asyncio.AbstractEventLoop | None = None

    # running

    async def start(self, *, host: str = "127.0.0.1", port: int = 0, uds: str | None = None) -> Self:
        """Listen on a port (0: a free one) or on a unix socket."""
        self._host, self.port, self._uds = host, port, uds
        self._loop = asyncio.get_running_loop()
        self.journal.batch_on(self._loop)
        await self.accept()
        return self

    async def accept(self) -> None:
        """Open the listener, again after `refuse`."""
        loop = asyncio.get_running_loop()
        if self._server is not None:
            return
        if self._uds is not None:
            Path(self._uds).unlink(missing_ok=True)
            self._server = await loop.create_unix_server(lambda: Connection(self), self._uds)
            return
        self._server = await loop.create_server(
            lambda: Connection(self), self._host, self.port, backlog=1024, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the listener and reset every connection: new ones are refused until `accept`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.drop_connections()
        if self._uds is not None:
            Path(self._uds).unlink(missing_ok=True)
        await asyncio.sleep(0)

    def drop_connections(self) -> None:
        """Reset every open connection."""
        for connection in list(self.connections):
            send_reset(connection.transport)

    async def stop(self) -> None:
        """Stop listening, drop connections, close the journal."""
        await self.refuse()
        self.journal.close()

    async def __aenter__(self) -> Self:
        return await self.start() if self._server is None else self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The base address, without /v1."""
        return f"http://{self._host}:{self.port}"

    @property
    def records(self) -> list[OracleRecord]:
        """Every call so far."""
        return self.journal.records

    @property
    def running(self) -> int:
        """What vllm:num_requests_running says."""
        return self.journal.running

    async def until(self, holds: Callable[[list[OracleRecord]], bool], timeout: float = 5.0) -> None:
        """Wait until the records satisfy a condition, looked at after each change."""
        async with asyncio.timeout(timeout):
            while not holds(self.records):
                changed = asyncio.Event()
                self.journal.on_change(changed.set)
                await changed.wait()

    # answering

    def answer(self, connection: Connection, method: str, target: bytes, body: bytes) -> Exchange | bytes:
        """The exchange that answers a generation, or the bytes that answer anything else."""
        path, _, query = target.decode("latin-1").partition("?")
        # Not what a worker asks of itself, whether the engine is well: that comes at any moment.
        if self._keep_requests and method != "GET" and not path.startswith("/oracle"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in connection.headers}
            self.received.append(Received(path, headers, body))
        if method == "POST" and path in (_CHAT, _TEXT, _EMBED):
            return self._generate(connection, path, body)
        if method == "POST" and path == "/tokenize":
            return json_answer(
                200, {"count": count_prompt_tokens(body), "max_model_len": 32_768, "tokens": []}
            )
        if path.startswith("/oracle"):
            return oracle_route(self, method, path, query, body)
        return engine_route(self, path) if method == "GET" else json_answer(404, error_answer(404))

    def _generate(self, connection: Connection, path: str, body: bytes) -> Exchange | bytes:
        if self._api_key is not None:
            if connection.header(b"authorization") != b"Bearer " + self._api_key.encode():
                return json_answer(401, error_answer(401, "Unauthorized"))
        try:
            ask = decode_ask(body)
            if not ask.model:
                raise BadScript("model is required")
            request_id = (connection.header(b"x-request-id") or b"").decode("latin-1") or None
            base = ask.model.partition("@")[0]
            if self._strict_models and base not in self.models:
                error = error_answer(404, f"The model `{ask.model}` does not exist.", "", "model")
                return json_answer(404, error)
            script = self.scripts.choose(ask.model, ask.last_user_text, request_id)
        except (msgspec.DecodeError, UnicodeDecodeError, BadScript) as error:
            return json_answer(400, error_answer(400, str(error)))
        self._seq += 1
        record = OracleRecord(
            seq=self._seq,
            path=path,
            started_at=time.time(),
            request_id=request_id,
            model=ask.model,
            stream=bool(ask.stream) and path != _EMBED,
            max_tokens=ask.limit,
            n=ask.n or 1,
            include_usage=ask.include_usage,
            continuous_usage=ask.continuous_usage,
            priority=ask.priority,
            cache_salt=ask.cache_salt,
            user=ask.user,
            script=script.source,
            prompt_tokens=count_prompt_tokens(ask),
        )
        self.journal.begin(record)
        id_ = f"{'chatcmpl' if path == _CHAT else 'cmpl'}-{request_id or f'{self._seq:032x}'}"
        plan, blank = self._plan(script, ask, path, record, id_)
        loop = self._loop or asyncio.get_running_loop()
        return Exchange(
            connection.transport,
            loop,
            self.journal,
            record,
            script,
            plan,
            (blank, id_.encode()),
            connection.finished,
        )

    def _plan(
        self, script: Script, ask: Ask, path: str, record: OracleRecord, id_: str
    ) -> tuple[Plan, bytes]:
        # A sliced id cannot be filled in afterwards.
        blank = id_ if script.slice else "~" * len(id_)
        if path == _EMBED:
            items = list(ask.input or []) if isinstance(ask.input, list) else [ask.input]
            if items and isinstance(items[0], int):
                items = [items]
            body = embeddings_answer(
                blank,
                ask.model,
                items,
                ask.dimensions or 8,
                record.prompt_tokens,
                packed=ask.encoding_format == "base64",
            )
            return Plan((), body, 0, 0, b""), blank.encode()
        key = (
            script.source, path, ask.model, record.stream, record.n, record.max_tokens, record.include_usage,
            record.continuous_usage, record.prompt_tokens, len(id_), ask.return_token_ids,
        )  # fmt: skip
        cacheable = not (script.slice or ask.tools or ask.tool_choice or ask.response_format)
        plan = self._plans.get(key) if cacheable else None
        if plan is None:
            make = plan_stream if record.stream else plan_plain
            plan = make(script, ask, chat=path == _CHAT, id_=blank, prompt=record.prompt_tokens)
            if cacheable:
                if len(self._plans) >= _PLANS_KEPT:
                    self._plans.clear()
                self._plans[key] = plan
        return plan, blank.encode()


async def _serve(options: argparse.Namespace) -> None:
    default = parse_script(options.script) if options.script else DEFAULT
    upstream = Upstream(
        journal=options.journal,
        journal_at_once=options.journal_at_once,
        default=default,
        models=tuple(options.model or ["mixtral-demo"]),
        api_key=options.api_key,
        keep_requests=False,
    )
    await upstream.start(host=options.host, port=options.port, uds=options.uds)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    print(options.uds or upstream.url, flush=True)
    await stopping.wait()
    await upstream.stop()


def main() -> None:
    """Serve until SIGTERM; prints its address once it listens."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.upstream", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free port, printed")
    parser.add_argument("--uds", help="a unix socket instead of a port")
    parser.add_argument("--journal", help="append every record to this file")
    parser.add_argument("--journal-at-once", action="store_true", help="before every byte, not every 50 ms")
    parser.add_argument("--script", help="the default script, such as 'tokens=64 delay=5ms'")
    parser.add_argument("--model", action="append", help="a served model's name; may be repeated")
    parser.add_argument("--api-key", help="refuse calls without this key")
    options = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(_serve(options))
        return
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
