"""One HTTP exchange byte for byte: what is sent is what the test wrote, well-formed or not.

An answer that never comes, or a connection that ends without one, is an Answer with status 0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass(slots=True)
class Answer:
    """What came back on one connection; `more` holds answers that nobody asked for."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    closed: bool = False
    """The server ended the connection."""
    more: int = 0

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The error's code, in whichever dialect; None where the body has none."""
        try:
            told = self.json()
        except ValueError:
            return None
        if not isinstance(told, dict):
            return None
        inner = told.get("error")
        return inner.get("code") if isinstance(inner, dict) else told.get("error_code")

    @property
    def request_id(self) -> str:
        """The gateway's id of the request."""
        return self.headers["x-request-id"]

    def events(self) -> list[Any]:
        """The events of a stream, decoded; `[DONE]` stays a text."""
        found: list[Any] = []
        for line in self.body.split(b"\n"):
            if line.startswith(b"data:"):
                data = line[5:].strip()
                found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
        return found


class Reading:
    """Parses answers as they arrive."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._parser = httptools.HttpResponseParser(self)
        self.whole = False

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.answers.append(Answer())
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answers[-1].headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answers[-1].status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_message_complete(self) -> None:
        self.whole = True


def request_bytes(
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """A well-formed request; a content type or length in `headers` replaces ours."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    told = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in told}
    lines = [f"{method} {path} HTTP/1.1"]
    if "host" not in names:
        lines.append("host: gateway.test")
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if body is not None and "content-type" not in names:
        lines.append("content-type: application/json")
    if (data or method in ("POST", "PUT", "PATCH")) and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(data)}")
    lines += [f"{name}: {value}" for name, value in told]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


async def raw(
    port: int, *pieces: bytes, pause: float = 0.0, timeout: float = 30.0, linger: float = 0.0
) -> Answer:
    """Send pieces, read one answer; with `linger`, then watch so long for a close or for answers nobody asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = Reading()
    closed = False
    try:
        for piece in pieces:
            try:
                writer.write(piece)
                await writer.drain()
            except ConnectionError:
                break
            if pause:
                await asyncio.sleep(pause)
        async with asyncio.timeout(timeout):
            while not reading.whole:
                data = await reader.read(65536)
                if not data:
                    closed = True
                    break
                reading.feed(data)
        if linger and not closed:
            try:
                async with asyncio.timeout(linger):
                    while data := await reader.read(65536):
                        reading.feed(data)
                    closed = True
            except TimeoutError:
                pass
    except (TimeoutError, ConnectionError):
        closed = True
    except httptools.HttpParserError:
        closed = True
    finally:
        writer.close()
    answer = reading.answers[0] if reading.answers else Answer()
    answer.closed = closed
    answer.more = max(len(reading.answers) - 1, 0)
    return answer


async def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    timeout: float = 30.0,
) -> Answer:
    """One well-formed call on a connection of its own."""
    return await raw(port, request_bytes(method, path, body, key=key, headers=headers), timeout=timeout)
