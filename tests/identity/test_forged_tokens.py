"""Forged tokens: every one is refused, all in the same words, while a genuine one is taken before and after."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.security.guesses import Guesses
from tests.identity.signing import AUDIENCE, ISSUER, Signer, claims, encoded, pem, public_jwk, raw

OTHER_ISSUER = "https://shared.example.com"
SECRET = "correct horse battery staple, and 32 bytes of it"


def hmac_signed(key: bytes, said: dict[str, Any] | None = None, **header: Any) -> str:
    """HS256 without any library's scruples about the key."""
    head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "first", **header}).encode()
    parts = f"{encoded(head)}.{encoded(json.dumps(said or claims()).encode())}"
    return f"{parts}.{encoded(hmac.digest(key, parts.encode(), hashlib.sha256))}"


def forged(signer: Signer) -> dict[str, str]:
    """Every forgery by what is wrong with it."""
    now = int(time.time())
    good = signer.sign()
    header, payload, signature = good.split(".")
    other = Signer(kid="first")
    curve = Signer(ec.generate_private_key(ec.SECP256R1()), "first", "ES256")
    public = pem(signer.key)
    der = signer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    changed = encoded(json.dumps(claims(sub="root")).encode())
    unsigned = raw({"alg": "none", "typ": "JWT"}, claims(), b"").rstrip(".")
    another = encoded(b'{"alg":"RS256","kid":"first","typ":"jwt"}')
    text = json.dumps(claims(iat=now, exp=now + 300))
    return {
        "alg none without a signature": unsigned + ".",
        "alg none with one": raw({"alg": "none", "typ": "JWT"}, claims()),
        "alg none in odd case": raw({"alg": "nOnE", "typ": "JWT"}, claims()),
        "no alg": raw({"typ": "JWT"}, claims()),
        "alg as a list": raw({"alg": ["RS256"], "typ": "JWT"}, claims()),
        "HS256 under the public PEM": hmac_signed(public),
        "HS256 under the PEM without its last newline": hmac_signed(public.rstrip()),
        "HS256 under the PEM with CRLF": hmac_signed(public.replace(b"\n", b"\r\n")),
        "HS256 under the PEM with spaces": hmac_signed(b"  " + public + b"\n\n"),
        "HS256 under the PEM with its middle indented": hmac_signed(public.replace(b"\n", b"\n ")),
        "HS256 under the DER": hmac_signed(der),
        "HS256 under the JWK": hmac_signed(json.dumps(public_jwk(signer.key, "first")).encode()),
        "HS256 under nothing": hmac_signed(b""),
        "HS256 of the other issuer's secret": hmac_signed(SECRET.encode()),
        "another RSA key under the right kid": other.sign(),
        "another algorithm than the key's": signer.sign(alg="RS512"),
        "PS256 of the right key": signer.sign(alg="PS256"),
        "an elliptic key under the right kid": curve.sign(),
        "a changed payload": f"{header}.{changed}.{signature}",
        "a changed header": f"{another}.{payload}.{signature}",
        "a cut signature": f"{header}.{payload}.{signature[:-8]}",
        "an empty signature": f"{header}.{payload}.",
        "padding at the end": good + "=",
        "five parts": f"{good}.{payload}.{signature}",
        "space before it": f"{header}. {payload}.{signature}",
        "another audience": signer.sign(claims(aud="weighbridge2")),
        "an audience's prefix": signer.sign(claims(aud=AUDIENCE[:-1])),
        "audiences without ours": signer.sign(claims(aud=["one", "two"])),
        "audiences that are no text": signer.sign(claims(aud=[AUDIENCE, 7])),
        "no audience": signer.sign(claims(aud=None)),
        "the issuer and a slash": signer.sign(claims(iss=ISSUER + "/")),
        "the issuer's prefix": signer.sign(claims(iss=ISSUER[:-1])),
        "the issuer in capitals": signer.sign(claims(iss=ISSUER.upper())),
        "the issuer in a list": raw(json.loads('{"alg":"RS256","kid":"first"}'), {**claims(), "iss": [ISSUER]}),
        "another configured issuer": signer.sign(claims(iss=OTHER_ISSUER)),
        "no issuer": signer.sign(claims(iss=None)),
        "exp past": signer.sign(claims(iat=now - 400, exp=now - 300)),
        "no exp": signer.sign(claims(exp=None)),
        "exp as text": signer.sign_raw(_head(), json.dumps({**claims(), "exp": str(now + 300)})),
        "exp true": signer.sign_raw(_head(), json.dumps({**claims(), "exp": True})),
        "exp NaN": signer.sign_raw(_head(), text.replace(str(now + 300), "NaN")),
        "exp infinite": signer.sign_raw(_head(), text.replace(str(now + 300), "1e999")),
        "nbf in the future": signer.sign(claims(nbf=now + 600)),
        "nbf as text": signer.sign_raw(_head(), json.dumps({**claims(), "nbf": "soon"})),
        "iat in the future": signer.sign(claims(iat=now + 600, exp=now + 900)),
        "no iat": signer.sign(claims(iat=None)),
        "older than an hour": signer.sign(claims(iat=now - 4000, exp=now + 3600)),
        "no sub": signer.sign(claims(sub=None)),
        "an empty sub": signer.sign(claims(sub="")),
        "sub as a number": signer.sign_raw(_head(), json.dumps({**claims(), "sub": 7})),
        "sub with a NUL": signer.sign(claims(sub="alice\x00")),
        "a very long sub": signer.sign(claims(sub="a" * 256)),
        "unknown crit": signer.sign(crit=["exp"], exp=now),
        "empty crit": signer.sign(crit=[]),
        "kid of another folder": signer.sign(kid="../../../dev/null"),
        "kid of SQL": signer.sign(kid="first' OR 1=1"),
        "a kid too long": signer.sign(kid="k" * 65),
        "an unknown kid": signer.sign(kid="second"),
        "kid as a number": signer.sign_raw('{"alg":"RS256","kid":1}', text),
        "its own key embedded": other.sign(jwk=public_jwk(other.key, "first")),
        "its own key embedded under another name": other.sign(kid="mine", jwk=public_jwk(other.key, "mine")),
        "an address of its own keys": other.sign(kid="mine", jku="http://127.0.0.1:1/keys"),
        "a certificate's address": other.sign(x5u="http://127.0.0.1:1/cert"),
        "the type of a logout token": signer.sign(typ="logout+jwt"),
        "the type of a proof of possession": signer.sign(typ="dpop+jwt"),
        "over 8 KiB": signer.sign(claims(padding="x" * 8000)),
        "an issuer named twice": signer.sign_raw(_head(), text[:-1] + ', "iss": "https://evil.example.com"}'),
        "an alg named twice": signer.sign_raw('{"alg":"RS256","kid":"first","alg":"RS256"}', text),
        "a header of arrays in arrays": raw("[" * 3000, claims()),
        "claims that are a list": signer.sign_raw(_head(), "[1]"),
        "our own issuer, signed by another": signer.sign(claims(iss="urn:weighbridge:session")),
        "our own issuer under nothing": hmac_signed(b"", claims(iss="urn:weighbridge:session"), kid="1"),
        "our own issuer under a guess": hmac_signed(
            b"weighbridge", claims(iss="urn:weighbridge:session"), kid="1", typ="weighbridge-session+jwt"
        ),
        "HS issuer: under nothing": hmac_signed(b"", claims(iss=OTHER_ISSUER), kid=None),
        "HS issuer: under half of its secret": hmac_signed(SECRET.encode()[:32], claims(iss=OTHER_ISSUER)),
        "HS issuer: RS256": signer.sign(claims(iss=OTHER_ISSUER), kid=None),
    }  # fmt: skip


def _head() -> str:
    return '{"alg":"RS256","kid":"first","typ":"JWT"}'


async def test_forged_tokens_are_refused_in_one_wording(deployment: Any, signer: Signer) -> None:
    keys = {"keys": [public_jwk(signer.key, "first", alg="RS256")]}
    wanted = {"name": "login", "issuer": ISSUER, "audience": AUDIENCE, "public_keys": keys}
    await deployment.made("/admin/v1/issuers", {**wanted, "create_principals": True})
    shared = {
        "name": "shared",
        "issuer": OTHER_ISSUER,
        "audience": AUDIENCE,
        "family": "HS",
        "secret": SECRET,
    }
    await deployment.made("/admin/v1/issuers", {**shared, "create_principals": True})

    async def answer(token: str) -> tuple[int, str]:
        # Each as the first that comes from its address: who sends many is told to wait, whatever they are.
        deployment.control.keys._guesses = Guesses(lambda: 0.0)
        got = await deployment.client.get("/admin/v1/me", headers={"authorization": f"Bearer {token}"})
        return got.status_code, got.text.replace(got.headers["x-request-id"], "")

    genuine = signer.sign()
    assert (await answer(genuine))[0] == 200
    assert (await answer(jwt.encode(claims(iss=OTHER_ISSUER), SECRET)))[0] == 200
    cases = forged(signer)
    assert len(cases) >= 30
    answers = {name: await answer(token) for name, token in cases.items()}
    assert {name: got for name, got in answers.items() if got[0] != 401} == {}
    assert len({body.split('"request_id"')[0] for _, body in answers.values()}) == 1
    assert (await answer("gk_live_x"))[1].split('"request_id"')[0] == answers["no exp"][1].split(
        '"request_id"'
    )[0]
    assert (await answer(genuine))[0] == 200
    users = (await deployment.ask("GET", "/admin/v1/users?limit=200")).json()["items"]
    assert [each["subject"] for each in users if each["issuer"] == ISSUER] == ["alice"]


async def test_tokens_that_begin_alike_are_never_mixed(workers: Any, configure: Any, signer: Signer) -> None:
    issuer = "https://alike.example.com"
    await configure(issuer)
    worker = await workers()

    def token(subject: str) -> str:
        return signer.sign({"padding": "x" * 400, **claims(iss=issuer, sub=subject)})

    alice, bob = token("alice-alike"), token("bob-alike")
    assert alice[:200] == bob[:200]
    for _ in range(3):
        assert (await worker.ask(alice)).principal.name == "alice-alike"
        assert (await worker.ask(bob)).principal.name == "bob-alike"
    assert worker.callers.known(alice[:-4] + bob[-4:]) is None
    assert worker.callers.known(alice).principal.name == "alice-alike"


async def test_a_token_is_taken_within_the_leeway_and_not_beyond(
    workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = "https://leeway.example.com"
    await configure(issuer)
    worker = await workers()
    now = int(time.time())
    for more in ({"exp": now - 20}, {"iat": now + 20}, {"nbf": now + 20}, {"aud": ["other", AUDIENCE]}):
        assert await worker.ask(signer.sign(claims(iss=issuer, **more)))
