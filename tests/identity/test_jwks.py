"""Published keys: read strictly, fetched seldom, kept while their address is away."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.warnings import InsecureKeyLengthWarning

from gateway.errors import Unauthenticated, Unavailable
from gateway.security.jwks import (
    MAX_DOCUMENT,
    JwksError,
    PublishedKeys,
    fetch,
    pick,
)
from gateway.security.key_sets import key_set_of_pem, read_key_set
from gateway.security.tokens import TokenVerifier, peek
from policies.tokens import Family, address_problem
from tests.identity.conftest import SEALING, Clock, Published
from tests.identity.signing import ISSUER, Signer, an_issuer, claims, pem, public_jwk, rsa_key

ADDRESS = "https://login.example.com/keys"
STRONG = rsa_key()


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def published_keys(published: Published, clock: Clock) -> PublishedKeys:
    return PublishedKeys(ADDRESS, Family.RS, fetch=published.fetch, monotonic=clock, name="login")


@pytest.mark.parametrize(
    ("key", "family"),
    [
        (public_jwk(STRONG, "k"), Family.RS),
        (public_jwk(STRONG, "k", alg="RS384", use="sig"), Family.RS),
        (public_jwk(ec.generate_private_key(ec.SECP384R1()), "k"), Family.ES),
        (public_jwk(ed25519.Ed25519PrivateKey.generate(), "k"), Family.EDDSA),
    ],
)
def test_keys_of_the_family_are_taken(key: dict[str, Any], family: Family) -> None:
    assert list(read_key_set(document(key), family)) == ["k"]


@pytest.mark.parametrize(
    "key",
    [
        public_jwk(rsa_key(1024), "k"),
        {"kty": "oct", "kid": "k", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
        public_jwk(STRONG, "k", use="enc"),
        public_jwk(STRONG, "k", key_ops=["encrypt"]),
        public_jwk(STRONG, "k", alg="HS256"),
        public_jwk(STRONG, "k", alg="PS256"),
        public_jwk(STRONG, "../k"),
        public_jwk(STRONG, "k" * 65),
        {**public_jwk(STRONG, "k"), "d": "AQAB"},
        {**public_jwk(STRONG, "k"), "e": "AQ"},
        {**public_jwk(STRONG, "k"), "n": 7},
        {"kty": "RSA", "kid": "k"},
        public_jwk(ec.generate_private_key(ec.SECP256R1()), "k"),
        {**public_jwk(STRONG, "k"), "kid": 7},
    ],
)
def test_keys_that_must_not_be_used_are_not_read(key: dict[str, Any]) -> None:
    assert read_key_set(document(key), Family.RS) == {}


def test_of_two_keys_with_one_name_neither_is_used() -> None:
    assert read_key_set(document(public_jwk(STRONG, "k"), public_jwk(rsa_key(), "k")), Family.RS) == {}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_key_set_is_told_from_an_empty_one(text: bytes) -> None:
    with pytest.raises(JwksError):
        read_key_set(text, Family.RS)
    assert read_key_set(b'{"keys": []}', Family.RS) == {}


def test_a_key_without_a_name_is_used_only_where_there_is_no_choice() -> None:
    one = read_key_set(document(public_jwk(STRONG, None)), Family.RS)
    assert pick(one, None) is not None
    assert pick(one, "any") is not None
    named = read_key_set(document(public_jwk(STRONG, "a")), Family.RS)
    assert pick(named, None) is not None
    assert pick(named, "b") is None
    two = read_key_set(document(public_jwk(STRONG, "a"), public_jwk(rsa_key(), "b")), Family.RS)
    assert pick(two, None) is None


def test_one_public_key_in_pem_is_a_set_and_a_private_one_is_refused() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    assert len(read_key_set(json.dumps(key_set_of_pem(pem(STRONG).decode())), Family.RS)) == 1
    private = STRONG.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text in (private, "", "ssh-rsa AAAA", pem(STRONG).decode()[:80]):
        with pytest.raises(JwksError):
            key_set_of_pem(text)


async def flood_of_kids(signer: Signer, kids: int) -> str:
    """So many tokens with random kids, and valid users among them: no error for these, a fetch in 30 s at most."""
    clock, published = Clock(), Published({ADDRESS: signer.document})
    verifier = TokenVerifier(SEALING, fetch=published.fetch, clock=_real, monotonic=clock)
    issuers = {ISSUER: an_issuer(jwks_uri=ADDRESS)}
    body, signature = signer.sign().split(".")[1:]
    began, refused, valid = clock.now, 0, 0

    async def ask(token: str) -> bool:
        seen = peek(token)
        assert seen is not None
        try:
            await verifier.verify(token, seen, issuers)
        except Unauthenticated:
            return False
        return True

    flood: list[str] = []
    for number in range(kids):
        header = json.dumps({"alg": "RS256", "kid": secrets.token_hex(8)}).encode()
        flood.append(f"{_segment(header)}.{body}.{signature}")
        clock.now += 0.009
        if number % 50 == 0:
            # A token that nobody has seen before, so that its key is looked for.
            assert await ask(signer.sign(claims(jti=str(number)))), "a valid user is never refused for it"
            valid += 1
        if len(flood) == 100:
            refused += (await asyncio.gather(*map(ask, flood))).count(False)
            flood = []
    await verifier.close()
    seconds = clock.now - began
    assert refused == kids
    assert published.fetches <= 1 + seconds / 30
    return (
        f"{kids} random kids in {seconds:.0f} s: {published.fetches} fetches, {valid} valid users, 0 errors"
    )


async def test_ten_thousand_random_kids_cost_one_fetch_in_thirty_seconds(signer: Signer) -> None:
    print(await flood_of_kids(signer, 10_000))


async def test_a_set_that_cannot_be_fetched_again_goes_on_to_hold(signer: Signer) -> None:
    clock, published = Clock(), Published({ADDRESS: signer.document})
    keys = published_keys(published, clock)
    assert await keys.find("first")
    published.documents.clear()
    for _ in range(200):
        clock.now += 60
        assert await keys.find("first"), "known keys are valid"
        assert await keys.find("second") is None, "unknown ones are not"
    # Both of a minute's questions share one fetch.
    assert published.fetches <= 202
    clock.now += 86_400
    with pytest.raises(Unavailable):
        await keys.find("first")


async def test_an_answer_that_is_no_set_counts_as_no_answer(signer: Signer) -> None:
    clock, published = Clock(), Published({ADDRESS: signer.document})
    keys = published_keys(published, clock)
    assert await keys.find("first")
    published.documents[ADDRESS] = b"<html>Bad gateway</html>"
    clock.now += 250
    assert await keys.find("first")


async def test_a_key_is_dropped_within_five_minutes_of_leaving_the_set(signer: Signer) -> None:
    clock, published = Clock(), Published({ADDRESS: signer.document})
    keys = published_keys(published, clock)
    assert await keys.find("first")
    published.documents[ADDRESS] = Signer(kid="second").document
    # A verified token is remembered for a minute beside this.
    clock.now += 235
    assert await keys.find("first") is None
    assert await keys.find("second")


async def test_a_new_key_is_found_by_the_first_token_that_names_it(signer: Signer) -> None:
    clock, published = Clock(), Published({ADDRESS: signer.document})
    keys = published_keys(published, clock)
    assert await keys.find("first")
    both = document(*signer.jwks["keys"], *Signer(kid="second").jwks["keys"])
    published.documents[ADDRESS] = both
    clock.now += 10
    assert await keys.find("second") is None, "the pause between fetches holds"
    clock.now += 21
    assert await keys.find("second")
    assert published.fetches == 2


async def test_callers_that_come_together_share_one_fetch(signer: Signer) -> None:
    clock = Clock()
    gate, fetches = asyncio.Event(), 0

    async def slow(_: str) -> bytes:
        nonlocal fetches
        fetches += 1
        await gate.wait()
        return signer.document

    keys = PublishedKeys(ADDRESS, Family.RS, fetch=slow, monotonic=clock, name="login")
    asking = [asyncio.create_task(keys.find("first")) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert fetches == 1
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(each == found[1] for each in found[1:])


async def test_without_any_set_ever_the_answer_is_to_try_again(signer: Signer) -> None:
    published = Published()
    verifier = TokenVerifier(SEALING, fetch=published.fetch, clock=_real, monotonic=Clock())
    token = signer.sign()
    seen = peek(token)
    assert seen is not None
    with pytest.raises(Unavailable):
        await verifier.verify(token, seen, {ISSUER: an_issuer(jwks_uri=ADDRESS)})


async def test_a_weak_key_in_the_set_verifies_nothing() -> None:
    weak = Signer(rsa_key(1024), "weak")
    published = Published({ADDRESS: weak.document})
    verifier = TokenVerifier(SEALING, fetch=published.fetch, clock=_real, monotonic=Clock())
    with pytest.warns(InsecureKeyLengthWarning):
        token = weak.sign(claims())
    seen = peek(token)
    assert seen is not None
    with pytest.raises(Unauthenticated):
        await verifier.verify(token, seen, {ISSUER: an_issuer(jwks_uri=ADDRESS)})


Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def serving() -> AsyncIterator[Callable[[bytes], Awaitable[str]]]:
    """Serves one raw answer on the loopback; gives its address."""
    servers: list[asyncio.Server] = []

    async def serve(answer: bytes) -> str:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"

    yield serve
    for each in servers:
        each.close()


async def test_a_document_is_fetched_as_it_is(serving: Any) -> None:
    address = await serving(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert await fetch(address) == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_DOCUMENT + 1) + b" " * (MAX_DOCUMENT + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_redirects_and_large_compressed_or_broken_answers_are_refused(
    serving: Any, answer: bytes
) -> None:
    with pytest.raises(JwksError):
        await fetch(await serving(answer))


@pytest.mark.parametrize(
    ("address", "loopback", "taken"),
    [
        ("https://login.example.com/keys", False, True),
        ("https://login.example.com:8443/keys?v=1", False, True),
        ("http://127.0.0.1:9000/keys", True, True),
        ("http://localhost:9000/keys", True, True),
        ("http://127.0.0.1:9000/keys", False, False),
        ("http://login.example.com/keys", True, False),
        ("http://127.0.0.1.example.com/keys", True, False),
        ("file:///etc/passwd", True, False),
        ("data:application/json,{}", True, False),
        ("ftp://login.example.com/keys", True, False),
        ("https://user:password@login.example.com/keys", False, False),
        ("https://login.example.com/keys#", False, False),
        ("https://login.example.com\\@evil.example.com/keys", False, False),
        ("https://lögin.example.com/keys", False, False),
        ("https://[::1", False, False),
        ("https:///keys", False, False),
        ("https://login.example.com:99999/", False, False),
    ],
)
def test_addresses_of_keys_are_https_or_the_loopback_by_leave(
    address: str, loopback: bool, taken: bool
) -> None:
    assert (address_problem(address, loopback=loopback) is None) is taken


def _segment(part: bytes) -> str:
    from tests.identity.signing import encoded

    return encoded(part)


def _real() -> float:
    import time

    return time.time()
