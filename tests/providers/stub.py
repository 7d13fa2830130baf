"""A scriptable server that speaks every provider's dialect, checks credentials as each does, and keeps what it was sent.

The model's name says what is answered: the name of a case, or `fail-<status>`. Bedrock's signatures are made anew by botocore
and compared.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from engines.canonical import Answer
from tests.providers import wires, wires_responses
from tests.providers.cases import CASES

AWS = ("AKIDEXAMPLE12345", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY")
SECRET_WORDS = "words of the upstream that nobody may see"
_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)"
)


@dataclass
class Sent:
    """One call as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes
    status: int = 0


@dataclass
class Providers:
    """Serves on the loopback; `keys` are those that it takes, whatever the header."""

    keys: set[str] = field(default_factory=lambda: {"key-one"})
    calls: list[Sent] = field(default_factory=list)
    connections: int = 0
    delay: float = 0.0
    port: int = 0
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                values = dict(line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in values.items()}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                sent = Sent(path, headers, json.loads(raw or b"null"), raw)
                self.calls.append(sent)
                await asyncio.sleep(self.delay)
                sent.status, kind, pieces = self._answer(sent)
                chunked = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
                writer.write(
                    f"HTTP/1.1 {sent.status} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n"
                    "set-cookie: a=b\r\n\r\n".encode()
                    + chunked
                    + b"0\r\n\r\n"
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, sent: Sent) -> tuple[int, str, list[bytes]]:
        path, body = sent.path.partition("?")[0], sent.body
        if path.startswith("/bedrock"):
            model = unquote(path.split("/")[3])
            known = _signed_well(sent, self.url())
        else:
            model = body.get("model") or unquote(path.split("/")[-1].split(":")[0])
            told = sent.headers.get("authorization", "").removeprefix("Bearer ")
            told = told or sent.headers.get("x-api-key") or sent.headers.get("x-goog-api-key") or ""
            known = told in self.keys
        if not known:
            return 401, "application/json", [wires.dumped({"error": {"message": SECRET_WORDS}})]
        if model.startswith("fail-"):
            failed = {
                "type": "error",
                "error": {"type": "x", "message": SECRET_WORDS},
                "message": SECRET_WORDS,
            }
            return int(model[5:8]), "application/json", [wires.dumped(failed)]
        if path.endswith((":batchEmbedContents", "/embed", "/invoke", "/embeddings")):
            return 200, "application/json", [wires.dumped(_embedded(path, body))]
        if path.endswith("/count_tokens"):
            return 200, "application/json", [wires.dumped({"input_tokens": 4_711})]
        provider = path.split("/")[1]
        answer = CASES[model]
        plain, stream = _RESPONSES if path.endswith("/responses") else _WIRES[provider]
        streamed = bool(body.get("stream")) or path.endswith(("-stream", ":streamGenerateContent"))
        if not streamed:
            return 200, "application/json", [wires.dumped(plain(answer))]
        data = stream(answer)
        kind = (
            "application/vnd.amazon.eventstream"
            if provider == "bedrock"
            else "text/event-stream; charset=utf-8"
        )
        return 200, kind, [data[at : at + 50] for at in range(0, len(data), 50)]


_RESPONSES = (wires_responses.responses_plain, wires_responses.responses_stream)
_WIRES: dict[str, tuple[Callable[[Answer], dict[str, Any]], Callable[[Answer], bytes]]] = {
    "openai": (wires.openai_plain, wires.openai_stream),
    "anthropic": (wires.anthropic_plain, wires.anthropic_stream),
    "gemini": (wires.gemini_plain, wires.gemini_stream),
    "bedrock": (wires.bedrock_plain, wires.bedrock_stream),
    "cohere": (wires.cohere_plain, wires.cohere_stream),
}


def _embedded(path: str, body: Any) -> dict[str, Any]:
    if path.endswith(":batchEmbedContents"):
        return {"embeddings": [{"values": [0.5, at]} for at in range(len(body["requests"]))]}
    if path.endswith("/embed"):
        vectors = [[0.5, at] for at in range(len(body["texts"]))]
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 6}}
        return {"id": "e", "texts": body["texts"], "embeddings": {"float": vectors}, "meta": meta}
    if path.endswith("/invoke"):
        return {"embedding": [0.5, 0], "inputTextTokenCount": 3}
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0]}]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def _signed_well(sent: Sent, url: str) -> bool:
    """Whether botocore makes the same signature of the call as it arrived."""
    found = _SIGNED.fullmatch(sent.headers.get("authorization", ""))
    if found is None or found[1] != AWS[0]:
        return False
    names = found[4].split(";")
    request = AWSRequest(
        "POST", url + sent.path, {name: sent.headers[name] for name in names if name != "host"}, sent.raw
    )
    request.context["timestamp"] = sent.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(*AWS), "bedrock", found[3])
    wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return wanted == found[5]
