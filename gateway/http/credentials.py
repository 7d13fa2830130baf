"""Read the one credential of a request from its headers.

Bearer, `x-api-key`, `api-key` (Azure's clients) and Basic with the key as password (MLflow) count alike; the same
value several times is one credential, different values are refused, so that no second header can skip a check.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from gateway.errors import BadRequest, Unauthenticated

MAX_CREDENTIAL = 8192


def read_credential(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The credential; raises Unauthenticated without one, BadRequest `ambiguous_credentials` with two."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            secret = _from_authorization(value)
        elif name in (b"x-api-key", b"api-key"):
            secret = value.strip()
        else:
            continue
        if found is not None and secret != found:
            raise BadRequest(
                "The request carries two different credentials; send one, as 'Authorization: Bearer <key>'.",
                code="ambiguous_credentials",
            )
        found = secret
    if not found or len(found) > MAX_CREDENTIAL:
        raise Unauthenticated
    try:
        return found.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated from None


def _from_authorization(value: bytes) -> bytes:
    scheme, _, rest = value.strip().partition(b" ")
    lowered = scheme.lower()
    if lowered == b"bearer":
        return rest.strip()
    if lowered == b"basic":
        try:
            _, _, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
        except binascii.Error:
            raise Unauthenticated from None
        return password
    raise Unauthenticated
