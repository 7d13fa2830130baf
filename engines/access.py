"""How a call to a provider is paid for: its credential, in the header that the provider reads.

A credential has at most two versions that hold at once. The newest is told first; where the provider refuses it and the
one before is still kept, the call goes out again with that one, so that no rotation fails a call.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engines.errors import ConnectFailed, EngineError
from engines.transport import OpenResponse, Response, Transport

_REFUSED_SECONDS = 5.0
"""How long a version that was refused is told last."""
_KEY_PAIR = re.compile(
    r"([A-Z0-9]{16,128}):([A-Za-z0-9/+=]{16,128})(?::([A-Za-z0-9/+=]{16,4096}))?", re.ASCII
)
_REGION = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]{4,32})\.", re.ASCII)
_HEADER = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)


class Access(Protocol):
    """Turns a credential into headers."""

    def headers(self, secret: str, path: str, body: bytes) -> Mapping[str, str]:
        """What the call carries; raises EngineError for a credential that is none."""
        ...


class Secrets(Protocol):
    """The versions of a credential."""

    def current(self) -> Sequence[str]:
        """The newest first; empty where there is none. Raises EngineError where it cannot be had."""
        ...


class InHeader:
    """The credential in one header: `Authorization: Bearer`, or bare in another."""

    def __init__(self, name: str) -> None:
        self._name = "authorization" if name == "bearer" else name
        self._before = "Bearer " if name == "bearer" else ""

    def headers(self, secret: str, path: str, body: bytes) -> Mapping[str, str]:
        if _HEADER.fullmatch(secret) is None:
            raise ConnectFailed("the credential cannot stand in a header")
        return {self._name: self._before + secret}


class Signed:
    """AWS signature, version 4, by botocore; a Bedrock API key is told as it is."""

    def __init__(self, address: str, region: str | None) -> None:
        found = _REGION.search(address)
        self._region = region or (found[1] if found else "us-east-1")
        self._address = address
        self._bearer = InHeader("bearer")

    def headers(self, secret: str, path: str, body: bytes) -> Mapping[str, str]:
        pair = _key_pair(secret)
        if pair is None:
            return self._bearer.headers(secret, path, body)
        # Imported where it is used: most workers never do.
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest("POST", self._address + path, {"content-type": "application/json"}, body)
        SigV4Auth(Credentials(*pair), "bedrock", self._region).add_auth(request)
        return {
            name.lower(): value
            for name, value in request.headers.items()
            if name.lower() != "content-type" and isinstance(value, str)
        }


class AuthorizedTransport:
    """The port `Transport`: each call with the credential that holds."""

    def __init__(
        self,
        transport: Transport,
        access: Access,
        secrets: Secrets,
        *,
        headers: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._access = access
        self._secrets = secrets
        self._always = headers or {}
        self._monotonic = monotonic
        self._refused: dict[str, float] = {}

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send and read the whole answer; raises EngineError."""
        *before, last = self._versions()
        for secret in before:
            response = await self._transport.post(path, body, self._told(secret, path, body, headers))
            if not self._is_refused(secret, response.status, response.body):
                return response
        return await self._transport.post(path, body, self._told(last, path, body, headers))

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        """Send and return as soon as the head of the answer is there; raises EngineError."""
        *before, last = self._versions()
        for secret in before:
            opened = await self._transport.open(path, body, self._told(secret, path, body, headers))
            if not self._is_refused(secret, opened.status, b""):
                return opened
            opened.close()
        return await self._transport.open(path, body, self._told(last, path, body, headers))

    async def get(self, path: str) -> Response:
        """Fetch a small page."""
        return await self._transport.get(path)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def _versions(self) -> Sequence[str] | tuple[None]:
        """In the order in which they are tried; None alone where the call goes without."""
        secrets: Sequence[str] = self._secrets.current()
        if not secrets:
            return (None,)
        if len(secrets) > 1 and self._refused:
            now = self._monotonic()
            return sorted(secrets, key=lambda each: self._refused.get(each, now) > now)
        return secrets

    def _told(
        self, secret: str | None, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        if secret is None:
            return {**self._always, **headers}
        return {**self._always, **headers, **self._access.headers(secret, path, body)}

    def _is_refused(self, secret: str | None, status: int, body: bytes) -> bool:
        refused = status in (401, 403) or (status == 400 and b"API_KEY_INVALID" in body)
        if refused and secret is not None:
            self._refused = {secret: self._monotonic() + _REFUSED_SECONDS}
        return refused


class Fixed:
    """The port `Secrets` for versions that do not change by themselves."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    def current(self) -> Sequence[str]:
        return self._secrets


class Missing:
    """The port `Secrets` where there should be a credential and is none: nothing is sent without."""

    def __init__(self, why: str) -> None:
        self._why = why

    def current(self) -> Sequence[str]:
        raise NoCredential(self._why)


class NoCredential(EngineError):
    """The provider has no credential that can be told; nothing was sent."""

    code = "no_credential"


def _key_pair(secret: str) -> tuple[str, str] | tuple[str, str, str] | None:
    """An AWS access key: `ID:SECRET`, `ID:SECRET:TOKEN`, or the JSON that AWS's own commands print."""
    found = _KEY_PAIR.fullmatch(secret)
    if found is not None:
        return (found[1], found[2], found[3]) if found[3] else (found[1], found[2])
    if not secret.startswith("{"):
        return None
    try:
        told = json.loads(secret)
        identity, key = told["AccessKeyId"], told["SecretAccessKey"]
    except (ValueError, KeyError, TypeError) as exc:
        raise NoCredential("the stored credential is no AWS access key") from exc
    token = told.get("SessionToken")
    return (identity, key, token) if token else (identity, key)
