"""What must be refused is refused in its dialect, reaches no upstream, leaves no row, and the worker lives on."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.upstream import Upstream
from tests.system.asking import Answer, raw, request_bytes
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
INVOKE = f"/serving-endpoints/{ENDPOINT}/invocations"


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@dataclass(frozen=True)
class Case:
    """A request that is refused: its body (or whole bytes), and what /v1 and the Databricks routes answer."""

    name: str
    body: object = None
    status: int = 400
    code: str | None = None
    databricks: int | None = 400
    """Status on a Databricks route; None where the case does not exist there."""
    databricks_code: str = "INVALID_PARAMETER_VALUE"
    headers: tuple[tuple[str, str], ...] = ()
    param: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def deep(levels: int) -> bytes:
    return b'{"model":"m","messages":' + b"[" * levels + b"]" * levels + b"}"


def with_content(content: bytes) -> bytes:
    return b'{"model":"%s","messages":[{"role":"user","content":%s}]}' % (ENDPOINT.encode(), content)


def number(name: str, literal: str) -> bytes:
    return with_content(b'"x"')[:-1] + f',"{name}":{literal}}}'.encode()


VALID = json.dumps(chat()).encode()
INVALID = "invalid_json"
CASES = [
    # 1
    Case("an empty body", b"", code=INVALID),
    Case("no JSON", b"hello", code=INVALID),
    Case("a trailing comma", b'{"model":"m",}', code=INVALID),
    Case("a list", b"[]", code=INVALID),
    Case("two objects", VALID + VALID, code=INVALID),
    # 3
    Case("10,000 levels", deep(10_000), code=INVALID),
    Case("65 levels", deep(65), code=INVALID),
    Case("a million nulls", b'{"model":"m","messages":[' + b"null," * 800_000 + b"null]}", code=INVALID),
    # 4
    Case("a doubled key", b'{"model":"a","model":"b","messages":[]}', code="duplicate_key"),
    Case("a key in two cases", VALID[:-1] + b',"Model":"b"}', code="duplicate_key"),
    Case("an escaped double", b'{"model":"a","mod\\u0065l":"b","messages":[]}', code="duplicate_key"),
    # 5
    Case("NaN", number("temperature", "NaN"), code=INVALID),
    Case("Infinity", number("temperature", "Infinity"), code=INVALID),
    Case("1e999", number("temperature", "1e999")),
    Case("10,000 digits", number("max_tokens", "1" * 10_000)),
    Case("max_tokens -1", chat(max_tokens=-1), param="max_tokens"),
    Case("max_tokens 0", chat(max_tokens=0), param="max_tokens"),
    Case("max_tokens 2^63", number("max_tokens", str(2**63))),
    Case("max_tokens as text", number("max_tokens", '"10"'), param="max_tokens"),
    Case("max_tokens true", number("max_tokens", "true"), param="max_tokens"),
    Case("n 0", chat(n=0), param="n"),
    Case("n 1,000", chat(n=1000), param="n"),
    Case("a temperature of 3", chat(temperature=3), param="temperature"),
    # 6
    Case("a lone surrogate", with_content(b'"\\ud800"')),
    Case("NUL", with_content(b'"a\\u0000b"'), code=INVALID),
    Case("a raw NUL", with_content(b'"a\x00b"'), code=INVALID),
    Case("a byte order mark", b"\xef\xbb\xbf" + VALID, code=INVALID),
    Case("invalid UTF-8", with_content(b'"\xff\xfe"'), code=INVALID),
    Case("overlong UTF-8", with_content(b'"\xc0\xaf"'), code=INVALID),
    # 9, 10
    Case("a gzip bomb", gzip.compress(b"0" * 10_000_000), 415, headers=(("content-encoding", "gzip"),)),
    Case("plain text", VALID, 415, headers=(("content-type", "text/plain"),)),
    Case("multipart", VALID, 415, headers=(("content-type", "multipart/form-data; boundary=x"),)),
    Case("a form", VALID, 415, headers=(("content-type", "application/x-www-form-urlencoded"),)),
    # 20
    *(
        Case(f"the field {name}", chat(**{name: value}), code="unsupported_field", param=name)
        for name, value in {
            "api_base": "http://169.254.169.254/",
            "base_url": "http://169.254.169.254/",
            "api_key": "x",
            "extra_headers": {"a": "b"},
            "chat_template": "{{ 1 }}",
            "guided_decoding_backend": "outlines:disable",
            "priority": -100,
            "cache_salt": "another's",
            "best_of": 100,
            "prompt_embeds": "AAAA",
        }.items()
    ),
    # 21
    Case(
        "an image of a metadata address",
        chat() | {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}],
                }
            ]
        },
    ),
    # the rest of the shape
    Case("no messages", {"model": ENDPOINT}),
    Case("messages as text", {"model": ENDPOINT, "messages": "hi"}, param="messages"),
    Case("an unknown role", {"model": ENDPOINT, "messages": [{"role": "root", "content": "x"}]}),
    Case("stream as text", chat() | {"stream": "yes"}, param="stream"),
    Case("stream_options without stream", chat(stream_options={"include_usage": True}), param="stream_options"),
]  # fmt: skip
NO_MODEL = [
    Case("no model", {"messages": [{"role": "user", "content": "x"}]}, param="model"),
    Case(
        "a model that is no text", {"model": 7, "messages": [{"role": "user", "content": "x"}]}, param="model"
    ),
]


@pytest.fixture(autouse=True)
def nothing_happened(gateway: Deployment, upstream: Upstream) -> Iterator[None]:
    """No test of this module calls the upstream or leaves an intent."""
    calls, intents = len(upstream.records), gateway.intents()
    yield
    assert len(upstream.records) == calls
    assert gateway.intents() == intents


def check_shape(answer: Answer, *, databricks: bool) -> None:
    told = answer.json()
    if databricks:
        assert isinstance(told["error_code"], str) and isinstance(told["message"], str)
        assert "error" not in told and "detail" not in told
        assert answer.status in (400, 401, 403, 404, 409, 429, 500, 501, 503, 504)
    else:
        assert told["error"].keys() >= {"message", "type", "param", "code", "request_id"}
        assert told["error"]["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"]
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("case", [*CASES, *NO_MODEL], ids=lambda case: case.name)
async def test_a_bad_body_is_refused_on_v1(gateway: Deployment, case: Case) -> None:
    answer = await gateway.ask("POST", CHAT, case.body, key=gateway.keys["bulk"], headers=case.headers)
    assert answer.status == case.status, answer.body
    check_shape(answer, databricks=False)
    if case.code is not None:
        assert answer.code == case.code
    if case.param is not None:
        assert answer.json()["error"]["param"] == case.param


@pytest.mark.parametrize("case", [each for each in CASES if each.databricks], ids=lambda case: case.name)
async def test_a_bad_body_is_refused_on_a_databricks_route(gateway: Deployment, case: Case) -> None:
    answer = await gateway.ask("POST", INVOKE, case.body, key=gateway.keys["bulk"], headers=case.headers)
    assert answer.status == case.databricks, answer.body
    check_shape(answer, databricks=True)
    assert answer.code == case.databricks_code


async def test_bad_bodies_cost_a_worker_little_time(gateway: Deployment) -> None:
    for body in (deep(10_000), b'{"model":"m","messages":[' + b"null," * 800_000 + b"null]}"):
        began = asyncio.get_running_loop().time()
        await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
        # 50 ms on a machine of its own; this one is shared with whatever else runs.
        assert asyncio.get_running_loop().time() - began < 1.0


@pytest.mark.parametrize("path", [CHAT, INVOKE])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(gateway: Deployment, path: str) -> None:
    key = gateway.keys["bulk"]
    announced = request_bytes(
        "POST",
        path,
        None,
        key=key,
        headers=[("content-length", str(5 << 20)), ("content-type", "application/json")],
    )
    answer = await raw(gateway.port, announced, b"{", timeout=5, linger=3)
    assert answer.status == (413 if path == CHAT else 400)
    assert answer.closed
    check_shape(answer, databricks=path != CHAT)


async def test_a_chunked_body_over_the_limit_is_refused_and_memory_stays_flat(gateway: Deployment) -> None:
    key = gateway.keys["bulk"]
    before = [resident(pid) for pid in gateway.workers()]
    head = request_bytes(
        "POST",
        CHAT,
        None,
        key=key,
        headers=[("transfer-encoding", "chunked"), ("content-type", "application/json")],
    )
    piece = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    answer = await raw(gateway.port, head, *([piece] * 64), timeout=10, linger=3)
    assert answer.status in (413, 0)
    assert answer.closed
    for pid, was in zip(gateway.workers(), before, strict=True):
        assert resident(pid) - was < 40 << 20


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a thousand headers", "".join(f"x-{n}: 1\r\n" for n in range(1000)) + "content-length: 2\r\n\r\n{}"),
        ("a header of 100 KiB", f"x-a: {'a' * 102400}\r\ncontent-length: 2\r\n\r\n{{}}"),
        ("a NUL in a header", "x-a: a\0b\r\ncontent-length: 2\r\n\r\n{}"),
        ("a CR in a header", "x-a: a\rb\r\ncontent-length: 2\r\n\r\n{}"),
        ("length and chunks", "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", "content-length: 2\r\ncontent-length: 3\r\n\r\n{} "),
        ("two equal lengths", "content-length: 2\r\ncontent-length: 2\r\n\r\n{}"),
        ("a chunk that ends oddly", "transfer-encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n"),
        ("a chunk size that is none", "transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
        ("a negative length", "content-length: -1\r\n\r\n{}"),
        ("a length with a sign", "content-length: +2\r\n\r\n{}"),
        ("an unknown coding", "transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ("a space before the colon", "content-length : 2\r\n\r\n{}"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
async def test_a_malformed_head_is_refused_closed_and_smuggles_nothing(
    gateway: Deployment, name: str, head: str
) -> None:
    key = gateway.keys["bulk"]
    hidden = request_bytes("POST", CHAT, chat("[[tokens=1]]"), key=key)
    sent = f"{HEAD}authorization: Bearer {key}\r\n{head}".encode("latin-1") + hidden
    answer = await raw(gateway.port, sent, timeout=10, linger=1)
    assert answer.status in (400, 431, 0), answer
    assert answer.closed and answer.more == 0
    assert (await gateway.ask("GET", "/healthz")).status == 200


async def test_a_websocket_upgrade_is_refused_and_the_worker_lives(gateway: Deployment) -> None:
    pids = gateway.workers()
    sent = (
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-protocol: \x80\xff\r\n\r\n"
    )
    for _ in range(8):
        answer = await raw(gateway.port, sent, timeout=5, linger=0.2)
        assert answer.status in (400, 401, 426), answer
    assert gateway.workers() == pids


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere", "/v1/nowhere", "/v1//chat/completions", "//v1/chat/completions", "/v1/chat/completions/..;/admin",
        "/..;/admin/v1/users", "/v1/%2e%2e/admin/v1/users", "/v1/chat%2fcompletions", "/admin/v1/users/%00",
        "/serving-endpoints/../admin/v1/users", "/api/2.0/nowhere", "/admin/v1/nowhere", "/.env", "/openapi/../../etc/passwd",
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", ["x", "admin.internal", "localhost@evil", "a/b"])
async def test_an_odd_path_or_host_never_reaches_an_unguarded_handler(
    gateway: Deployment, path: str, host: str
) -> None:
    for method in ("GET", "POST"):
        answer = await gateway.ask(method, path, {} if method == "POST" else None, headers=[("host", host)])
        assert answer.status in (400, 401, 404, 405), answer
        if path.startswith(("/api/2.0", "/serving-endpoints/")):
            assert answer.code is not None and "error" not in answer.json()


async def test_a_connection_is_clean_after_an_error(gateway: Deployment) -> None:
    key = gateway.keys["bulk"]
    bad = request_bytes("POST", CHAT, b"{", key=key)
    good = request_bytes("GET", "/v1/models", key=key)
    answer = await raw(gateway.port, bad + good, timeout=5, linger=1)
    assert answer.status == 400
    # Either the second request was answered as what it is, or the connection was closed.
    assert answer.more == 1 or answer.closed


BAD_KEYS = {
    "no credential": None,
    "an empty one": "",
    "no key of ours": "sk-proj-0123456789abcdef",
    "a malformed key": "gk_live_short",
    "a key of the right form": "gk_live_aaaaaaaaaaaa_" + "b" * 43 + "_cccccc",
}


async def test_every_wrong_credential_gets_the_same_401(gateway: Deployment) -> None:
    good = gateway.keys["bulk"]
    parts = good.split("_")
    wrong_secret = "_".join([*parts[:3], parts[3][:-1] + ("a" if parts[3][-1] != "a" else "b"), *parts[4:]])
    bodies: set[str] = set()
    for credential in [*BAD_KEYS.values(), wrong_secret, good[:-1], good + "x", good.upper()]:
        for path in (CHAT, INVOKE, "/v1/models", "/api/2.0/serving-endpoints", "/admin/v1/users"):
            method = "POST" if path in (CHAT, INVOKE) else "GET"
            answer = await gateway.ask(method, path, chat() if method == "POST" else None, key=credential)
            assert answer.status == 401, (credential, path, answer)
            databricks = path in (INVOKE, "/api/2.0/serving-endpoints")
            assert answer.code == ("UNAUTHENTICATED" if databricks else "invalid_api_key")
            if path == CHAT:
                told = answer.json()
                del told["error"]["request_id"]
                bodies.add(json.dumps(told))
    assert len(bodies) == 1


async def test_a_revoked_and_an_expired_key_get_401(gateway: Deployment) -> None:
    from datetime import UTC, datetime, timedelta

    soon = datetime.now(UTC) + timedelta(seconds=2)
    ids = gateway.ids["bulk"]
    revoked = await gateway.administer("POST", "/keys", {"principal_id": ids})
    expiring = await gateway.administer(
        "POST", "/keys", {"principal_id": ids, "expires_at": soon.isoformat()}
    )
    for made in (revoked, expiring):
        # Known to every worker, so that it is the cache that has to forget.
        for _ in range(16):
            answer = await gateway.ask("GET", "/v1/models", key=made["key"])
    assert (await gateway.ask("GET", "/v1/models", key=revoked["key"])).status == 200
    await gateway.administer("DELETE", f"/keys/{revoked['details']['id']}")
    # Until the other is over its time, too.
    await asyncio.sleep(max(1.0, (soon - datetime.now(UTC)).total_seconds() + 0.1))
    for made in (revoked, expiring):
        for _ in range(16):
            answer = await gateway.ask("POST", CHAT, chat(), key=made["key"])
            assert (answer.status, answer.code) == (401, "invalid_api_key")


async def test_two_different_credentials_are_refused_and_two_equal_ones_count_as_one(
    gateway: Deployment,
) -> None:
    key = gateway.keys["bulk"]
    for name in ("x-api-key", "api-key"):
        answer = await gateway.ask("GET", "/v1/models", key=key, headers=[(name, gateway.admin_key)])
        assert (answer.status, answer.code) == (400, "ambiguous_credentials")
        assert (await gateway.ask("GET", "/v1/models", key=key, headers=[(name, key)])).status == 200
        assert (await gateway.ask("GET", "/v1/models", headers=[(name, key)])).status == 200
    answer = await gateway.ask("POST", CHAT, chat(), key=key, headers=[("x-api-key", gateway.admin_key)])
    assert (answer.status, answer.code) == (400, "ambiguous_credentials")


async def test_an_endpoint_that_is_not_the_callers_is_named_by_403_and_tricks_with_its_name_by_404(
    gateway: Deployment,
) -> None:
    stranger = gateway.keys["stranger"]
    answer = await gateway.ask("POST", CHAT, chat(), key=stranger)
    assert answer.status == 403
    assert "CAN_QUERY" in answer.json()["error"]["message"]
    answer = await gateway.ask("POST", INVOKE, chat(), key=stranger)
    assert (answer.status, answer.code) == (403, "PERMISSION_DENIED")
    tricks = [
        "*",
        ENDPOINT.upper(),
        f" {ENDPOINT}",
        f"{ENDPOINT} ",
        f"{ENDPOINT}*",
        "%",
        "mixtral-demo",
        "..",
        "a" * 5000,
    ]
    for name in tricks:
        for key in (stranger, gateway.keys["bulk"]):
            answer = await gateway.ask("POST", CHAT, chat(model=name), key=key)
            assert (answer.status, answer.code) == (404, "model_not_found"), name
    answer = await gateway.ask("POST", "/serving-endpoints/nothing/invocations", chat(), key=stranger)
    assert answer.status == 404
    assert answer.code in ("ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST")


async def test_an_ordinary_user_reaches_nothing_of_the_administration(gateway: Deployment) -> None:
    for path in ("/users", "/groups", "/keys", "/endpoints", "/limits", "/audit"):
        answer = await gateway.ask("GET", f"/admin/v1{path}", key=gateway.keys["bulk"])
        assert answer.status in (403, 404), (path, answer)
    answer = await gateway.ask(
        "PATCH", f"/admin/v1/users/{gateway.ids['bulk']}", {"roles": ["admin"]}, key=gateway.keys["bulk"]
    )
    assert answer.status == 403


async def test_random_bytes_never_end_a_worker(gateway: Deployment, seed: int) -> None:
    pids = gateway.workers()
    rng = random.Random(seed)
    key = gateway.keys["bulk"]
    good = request_bytes("POST", CHAT, b"{}", key=key)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        await raw(gateway.port, bytes(data), timeout=0.3)
    assert gateway.workers() == pids
    assert (await gateway.ask("GET", "/healthz")).status == 200
