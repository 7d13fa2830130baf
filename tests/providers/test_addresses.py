"""Addresses that administrators enter: none leads inside, whatever it is dressed as; and a credential goes to its own alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engines.access import AuthorizedTransport, Fixed, InHeader, NoCredential
from engines.adapter import Call
from engines.aiohttp_client import AiohttpTransport
from engines.errors import ConnectFailed, EngineError, Refused
from engines.http1.transport import Http1Transport
from engines.providers import PROVIDERS
from engines.transport import Response, Timeouts
from gateway.providers.adapters import ProviderAdapters, provider_address
from gateway.providers.secrets import _File, secrets_of  # pyright: ignore[reportPrivateUsage]
from gateway.security.addresses import AddressRefused, read_address, refuse_private
from gateway.security.sealing import SealError, Sealing, provider_subject
from policies.catalog import Account, EntityKind, Price, ServedEntity

SEALING = Sealing({1: bytes(range(32))})
CALL = Call("/v1/chat/completions", {"messages": []}, "m", 5, {})
PORT = "{port}"
CORPUS = [
    "https://good\\@169.254.169.254/",
    "https://good@169.254.169.254/",
    "https://169.254.169.254/latest",
    "https://2852039166:{port}/",
    "https://2130706433:{port}/v1",
    "https://0x7f000001:{port}/v1",
    "https://0177.0.0.1:{port}/v1",
    "https://127.1:{port}/v1",
    "https://127.0.0.1:{port}/v1",
    "https://[::1]:{port}/v1",
    "https://[::ffff:127.0.0.1]:{port}/v1",
    "https://[::ffff:7f00:1]:{port}/v1",
    "https://[64:ff9b::7f00:1]:{port}/v1",
    "https://0.0.0.0:{port}/v1",
    "https://10.0.0.1/v1",
    "https://192.168.1.1/v1",
    "https://[fe80::1]/v1",
    "https://[fd00::1]/v1",
    "https://224.0.0.1/v1",
    "https://localhost:{port}/v1",
    "https://rebinds.example:{port}/v1",
    "https://inside.example:{port}/v1",
    "https://168.63.129.16/metadata",
    "https://[::ffff:168.63.129.16]/v1",
    "https://[fec0::1]/v1",
    "https://[2002:a83f:8110::1]/v1",
    "https://inner.0x7f:{port}/v1",
    "https://in..example:{port}/v1",
    "https://inside.example:0/v1",
    "https://[v1.example]/v1",
    "http://api.openai.com/v1",
    "http://127.0.0.1:{port}/v1",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "https://exa mple.com/",
    "https://example.com/v1#@127.0.0.1",
    "https://ｅxample.com/v1",
    "https://user:word@example.com/v1",
    "https://example.com\r\n/v1",
    "//127.0.0.1:{port}/v1",
    "",
]


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[list[Any]]:
    """A server on the loopback that counts who connects; its port is the first of what it gives."""
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.append(server.sockets[0].getsockname()[1])
    yield seen
    server.close()


async def names(host: str, port: int) -> list[str]:
    """What names lead to: some inside, one outside first and inside afterwards."""
    if host == "inside.example":
        return ["93.184.216.34", "127.0.0.1"]
    if host == "rebinds.example":
        return ["127.0.0.1"]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(each[4][0]) for each in found]


def entity(address: str, account: Account | None = None, provider: str = "openai-compatible") -> ServedEntity:
    return ServedEntity(
        "e", "it", EntityKind.EXTERNAL, provider, "m", Price("p"), base_url=address, account=account
    )


def adapters(transport: Any = Http1Transport, hosts: frozenset[str] = frozenset()) -> ProviderAdapters:
    return ProviderAdapters(transport, SEALING, hosts=hosts, folder=Path("/nowhere"), resolve=names)


@pytest.mark.parametrize("transport", [Http1Transport, AiohttpTransport])
async def test_no_address_of_the_corpus_is_ever_connected_to(listener: list[Any], transport: Any) -> None:
    for each in CORPUS:
        address = each.replace(PORT, str(listener[0]))
        made = adapters(transport)
        with pytest.raises((EngineError, OSError)):
            await made.adapter(entity(address), address, Timeouts(connect=2)).complete(CALL)
        await made.aclose()
    assert len(listener) == 1


async def test_a_listed_host_is_called_and_its_redirect_is_not_followed(listener: list[Any]) -> None:
    address = f"http://127.0.0.1:{listener[0]}/v1"
    made = adapters(hosts=frozenset({"127.0.0.1"}))
    with pytest.raises(Refused) as caught:
        await made.adapter(entity(address), address, Timeouts()).complete(CALL)
    assert caught.value.status == 302
    assert len(listener) == 2
    await made.aclose()


async def test_a_credential_is_told_at_its_own_address_alone(listener: list[Any]) -> None:
    subject = provider_subject("a", "https://api.example.com/v1")
    account = Account(
        "a",
        "mine",
        "openai",
        "https://api.example.com/v1",
        "stored",
        sealed=(SEALING.seal(b"secret", subject),),
    )
    address = f"http://127.0.0.1:{listener[0]}/v1"
    made = adapters(hosts=frozenset({"127.0.0.1"}))
    with pytest.raises(NoCredential):
        await made.adapter(entity(address, account, "openai"), address, Timeouts()).complete(CALL)
    # Nor does it open for another address, should one be written into the table.
    with pytest.raises(SealError):
        SEALING.open(account.sealed[0], provider_subject("a", address))
    moved = replace(account, base_url=address)
    with pytest.raises(NoCredential):
        await made.adapter(entity(address, moved, "openai"), address, Timeouts()).complete(CALL)
    # The same host's other port is another's, too.
    beside = f"http://127.0.0.1:{listener[0] ^ 1}/v1"
    subject = provider_subject("a", beside)
    account = replace(account, base_url=beside, sealed=(SEALING.seal(b"secret", subject),))
    with pytest.raises(NoCredential):
        await made.adapter(entity(address, account, "openai"), address, Timeouts()).complete(CALL)
    assert len(listener) == 1
    await made.aclose()


class Opened:
    """The head of an answer."""

    def __init__(self, status: int, upstream: Upstream) -> None:
        self.status = status
        self._upstream = upstream
        upstream.open_ += 1

    def close(self) -> None:
        self._upstream.open_ -= 1


class Upstream:
    """Takes some secrets; keeps those that it was told."""

    def __init__(self, *taken: str) -> None:
        self.taken = taken
        self.told: list[str] = []
        self.open_ = 0
        self.refusal = Response(401, {}, b"")

    async def post(self, path: str, body: bytes, headers: Any) -> Response:
        self.told.append(headers["authorization"].removeprefix("Bearer "))
        return Response(200, {}, b"") if self.told[-1] in self.taken else self.refusal

    async def open(self, path: str, body: bytes, headers: Any) -> Any:
        return Opened((await self.post(path, body, headers)).status, self)

    async def get(self, path: str) -> Response:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def test_the_version_before_is_told_where_the_newest_is_refused_and_the_newest_again_after_a_while() -> (
    None
):
    now = 100.0
    upstream = Upstream("old")
    transport = AuthorizedTransport(upstream, InHeader("bearer"), Fixed("new", "old"), monotonic=lambda: now)
    for _ in range(3):
        assert (await transport.post("/", b"", {})).status == 200
    assert upstream.told == ["new", "old", "old", "old"]
    now += 6
    upstream.taken = ("new",)
    upstream.told.clear()
    assert (await transport.post("/", b"", {})).status == 200
    assert upstream.told == ["new"]
    upstream.taken = ()
    assert (await transport.post("/", b"", {})).status == 401
    with pytest.raises(EngineError):
        await AuthorizedTransport(upstream, InHeader("bearer"), Fixed("a\r\nb: c")).post("/", b"", {})


async def test_a_credential_is_refused_by_what_the_provider_says_of_it_and_a_request_is_not() -> None:
    for refusal, told in (
        (Response(403, {}, b""), ["new", "old"]),
        (Response(400, {}, b'{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}'), ["new", "old"]),
        (Response(400, {}, b'{"error":{"message":"no such field"}}'), ["new"]),
        (Response(429, {}, b""), ["new"]),
    ):
        upstream = Upstream("old")
        upstream.refusal = refusal
        await AuthorizedTransport(upstream, InHeader("bearer"), Fixed("new", "old")).post("/", b"", {})
        assert upstream.told == told


def test_a_file_is_read_again_when_it_changes_and_what_it_held_before_still_counts(tmp_path: Path) -> None:
    now = 100.0
    secrets = _File(tmp_path, "key", lambda: now)
    with pytest.raises(NoCredential):
        secrets.current()
    for text, held in (("one\n", ["one"]), ("other", ["other", "one"]), ("", ["other", "one"])):
        now += 1
        (tmp_path / "key").write_text(text)
        assert list(secrets.current()) == held
    # Not at every call.
    (tmp_path / "key").write_text("third")
    assert list(secrets.current()) == ["other", "one"]


async def test_a_stream_that_is_refused_for_its_credential_is_closed_before_the_other_is_told() -> None:
    upstream = Upstream("old")
    transport = AuthorizedTransport(upstream, InHeader("bearer"), Fixed("new", "old"))
    assert (await transport.open("/", b"", {})).status == 200
    assert (upstream.told, upstream.open_) == (["new", "old"], 1)


def test_a_credential_is_no_other_variable_and_no_file_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_CREDENTIAL_MINE", "word")
    (tmp_path / "secret").write_text("theirs")
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "mine").write_text("word\n")

    def told(source: str, reference: str) -> tuple[str, ...]:
        account = Account("a", "mine", "openai", "https://api.example.com/v1", source, reference=reference)
        return tuple(secrets_of(account, SEALING, folder).current())

    assert told("environment", "WEIGHBRIDGE_CREDENTIAL_MINE") == told("file", "mine") == ("word",)
    # What an administrator cannot ask for by the API is refused all the same where it stands in the table.
    for source, reference in (("environment", "PATH"), ("environment", "HOME"), ("file", "../secret")):
        with pytest.raises(NoCredential):
            told(source, reference)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:word@example.com/v1",
        "https://@example.com/v1",
        "https://example.com/v1#part",
        "https://2130706433/v1",
        "https://127.1/v1",
        "https://example.com\\@127.0.0.1/v1",
        "https://0x7f000001/v1",
        "https://inner.0x7f/v1",
        "https://in..example/v1",
        "https://inside.example:0/v1",
        "https://[v1.example]/v1",
    ],
)
def test_addresses_that_are_read_in_two_ways_are_refused_before_any_name_is_looked_up(address: str) -> None:
    with pytest.raises(AddressRefused):
        read_address(address, ())


@pytest.mark.parametrize(
    "address",
    ["168.63.129.16", "::ffff:168.63.129.16", "2002:a83f:8110::1", "fec0::1", "3fff::1", "64:ff9b::7f00:1"],
)
def test_what_registries_call_public_and_is_not_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        refuse_private(address)


@pytest.mark.parametrize("address", ["https://api.openai.com/v1", "https://[2606:4700::1111]/v1"])
def test_addresses_of_the_public_internet_pass(address: str) -> None:
    read_address(address, ())


def test_what_is_refused_says_which_setting_would_allow_it() -> None:
    with pytest.raises(AddressRefused, match="WEIGHBRIDGE_PROVIDER_HOSTS"):
        read_address("http://gpu1:8000/v1", (), setting="WEIGHBRIDGE_PROVIDER_HOSTS")


@pytest.mark.parametrize("transport", [Http1Transport, AiohttpTransport])
async def test_the_address_that_was_looked_at_must_have_the_names_own_certificate(
    transport: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=provider.example", "-addext", "subjectAltName=DNS:provider.example", "-keyout", key, "-out", cert],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()

    async def resolve(host: str, port: int) -> str:
        return "127.0.0.1"

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    right = transport(f"https://provider.example:{port}", resolve=resolve)
    assert (await right.get("/")).body == b"ok"
    await right.aclose()
    wrong = transport(f"https://another.example:{port}", resolve=resolve)
    with pytest.raises(EngineError):
        await wrong.get("/")
    await wrong.aclose()
    server.close()


class Heard:
    """The port `Transport` to nowhere: notes where it leads and what it was given."""

    def __init__(self, url: str, **_: Any) -> None:
        self.url = url
        self.path = ""
        self.headers: dict[str, str] = {}

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.path, self.headers = path, dict(headers)
        raise ConnectFailed("nowhere")

    async def aclose(self) -> None: ...


_PAID = {
    "anthropic": {"x-api-key": "word", "anthropic-version": "2023-06-01"},
    "azure-openai": {"api-key": "word"},
    "gemini": {"x-goog-api-key": "word"},
}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_provider_is_paid_in_the_header_that_it_reads_and_nowhere_else(provider: str) -> None:
    address = PROVIDERS[provider].base_url or "https://own.example.com"
    sealed = SEALING.seal(b"word", provider_subject("a", address))
    account = Account("a", "mine", provider, address, "stored", sealed=(sealed,))
    heard: list[Heard] = []

    def transport(url: str, **given: Any) -> Any:
        heard.append(Heard(url, **given))
        return heard[-1]

    adapter = adapters(transport).adapter(entity(address, account, provider), address, Timeouts())
    call = Call(CALL.path, {"messages": [{"role": "user", "content": "Hi"}]}, "m", 5, {})
    with pytest.raises(ConnectFailed):
        await adapter.complete(call)
    [told] = heard
    # Without a path of its own it has OpenAI's version there, where it speaks OpenAI's dialect.
    below = "/v1" if address == "https://own.example.com" and provider != "amazon-bedrock" else ""
    assert told.url == address + below
    assert told.headers == _PAID.get(provider, {"authorization": "Bearer word"})
    assert "word" not in told.path


def test_a_providers_address_takes_no_query() -> None:
    with pytest.raises(AddressRefused, match="query"):
        provider_address("https://api.openai.com/v1?key=word", ())


def test_without_a_credential_only_those_are_called_that_ask_for_none() -> None:
    made = adapters()
    unpaid = {
        name: made.unfit(entity(each.base_url or "https://own.example.com", None, name))
        for name, each in PROVIDERS.items()
    }
    assert {name for name, why in unpaid.items() if why is None} == {"ollama", "vllm", "openai-compatible"}
