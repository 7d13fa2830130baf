"""One credential a request, whatever header it comes in."""

from __future__ import annotations

import base64

import pytest

from gateway.errors import BadRequest, GatewayError, Unauthenticated
from gateway.http.credentials import read_credential

BASIC = b"Basic " + base64.b64encode(b"anyone:secret")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer secret")],
        [(b"authorization", b"bearer   secret ")],
        [(b"x-api-key", b"secret")],
        [(b"api-key", b"secret")],
        [(b"authorization", BASIC)],
        [(b"authorization", b"Bearer secret"), (b"x-api-key", b"secret"), (b"api-key", b"secret")],
    ],
)
def test_every_client_finds_its_header_read(headers: list[tuple[bytes, bytes]]) -> None:
    assert read_credential(headers) == "secret"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], Unauthenticated),
        ([(b"authorization", b"")], Unauthenticated),
        ([(b"authorization", b"Bearer ")], Unauthenticated),
        ([(b"authorization", b"Digest x")], Unauthenticated),
        ([(b"authorization", b"Basic !!!")], Unauthenticated),
        ([(b"authorization", b"Bearer \xff")], Unauthenticated),
        ([(b"authorization", b"Bearer " + b"x" * 9000)], Unauthenticated),
        ([(b"authorization", b"Bearer one"), (b"x-api-key", b"two")], BadRequest),
        ([(b"x-api-key", b"one"), (b"x-api-key", b"two")], BadRequest),
    ],
)
def test_no_credential_or_two_are_refused(
    headers: list[tuple[bytes, bytes]], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        read_credential(headers)
