"""The adapters to providers, by entity and address: built when they are first called, and anew when a credential changes.

Connections go only to addresses that passed the rules, at the moment when they are made; they outlive a rotation, which
fails no call under way. A dialect's code is imported where an entity of it is first seen, off the event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from engines.access import AuthorizedTransport, Fixed, InHeader, Missing, Secrets, Signed
from engines.adapter import Adapter
from engines.errors import ConnectFailed
from engines.native import NativeEngine
from engines.openai import OpenAIEngine
from engines.providers import Provider, provider_named, speaks_responses
from engines.transport import OpenResponse, Response, Timeouts, Transport
from gateway.providers.secrets import secrets_of
from gateway.security.addresses import Address, AddressRefused, Resolve, read_address, resolved
from gateway.security.sealing import Sealing
from policies.catalog import Account, EntityKind, ServedEntity, Snapshot

SETTING = "WEIGHBRIDGE_PROVIDER_HOSTS"
_NATIVE = {
    "anthropic": ("engines.anthropic.answers", "Messages", False),
    "gemini": ("engines.gemini.answers", "Gemini", True),
    "bedrock": ("engines.bedrock.answers", "Converse", True),
    "cohere": ("engines.cohere.answers", "Cohere", True),
}
"""Dialect -> its module, its class, and whether it embeds."""
_HEAVY = ("botocore.auth", "botocore.awsrequest", "botocore.credentials")
log = logging.getLogger(__name__)


def provider_address(url: str, hosts: Collection[str]) -> Address:
    """An address at which a provider may be; raises AddressRefused."""
    where = read_address(url, hosts, setting=SETTING)
    if "?" in where.target:
        raise AddressRefused("the address takes no query")
    return where


class Forbidden(ConnectFailed):
    """The address is not one that this deployment connects to."""

    code = "address_refused"


class _Nowhere:
    """The port `Transport` to an address that is refused."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        raise Forbidden(self._why)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        raise Forbidden(self._why)

    async def get(self, path: str) -> Response:
        raise Forbidden(self._why)

    async def aclose(self) -> None:
        pass


class ProviderAdapters:
    """One worker's adapters to providers."""

    def __init__(
        self,
        transport: Callable[..., Transport],
        sealing: Sealing,
        *,
        hosts: Collection[str],
        folder: Path,
        resolve: Resolve | None = None,
    ) -> None:
        """`hosts` may be private or plain http; `folder` is where files with credentials are."""
        self._transport = transport
        self._sealing = sealing
        self._hosts = hosts
        self._folder = folder
        self._resolver = resolve
        self._adapters: dict[tuple[object, ...], tuple[Account | None, Adapter]] = {}
        self._transports: dict[tuple[str, Timeouts], Transport] = {}
        self._imports: set[asyncio.Task[None]] = set()
        self._prepared: set[str] = set()

    def adapter(self, entity: ServedEntity, address: str, timeouts: Timeouts) -> Adapter:
        """The adapter of an entity at one of its addresses; where that is refused, every call of it fails."""
        key = (entity.id, entity.provider, address, entity.options, timeouts)
        known = self._adapters.get(key)
        if known is not None and known[0] == entity.account:
            return known[1]
        made = self._made(entity, address, timeouts)
        self._adapters[key] = (entity.account, made)
        return made

    def unfit(self, entity: ServedEntity) -> str | None:
        """Why a provider's entity cannot be called now."""
        if not entity.base_url:
            return "it has no address"
        return "its provider has no credential" if _unpaid(entity) else None

    def follow(self, latest: Callable[[], Snapshot | None]) -> Callable[[frozenset[str]], None]:
        """What to call when the configuration changes; prepares for what it holds already."""

        def changed(told: frozenset[str]) -> None:
            snapshot = latest()
            if not told and snapshot is not None:
                self.prepare(snapshot)

        changed(frozenset())
        return changed

    def prepare(self, snapshot: Snapshot) -> None:
        """Import what the entities of a new snapshot need, in a thread: the first call must not wait for all of it."""
        wanted = {
            provider_named(entity.provider).dialect
            for endpoint in snapshot.endpoints.values()
            for entity in endpoint.entities
            if entity.kind is EntityKind.EXTERNAL
        }
        new = (wanted & _NATIVE.keys()) - self._prepared
        self._prepared |= new
        modules = [_NATIVE[each][0] for each in sorted(new)]
        if "bedrock" in new:
            modules += _HEAVY
        if modules:
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(_import, modules))
            self._imports.add(task)
            task.add_done_callback(self._imports.discard)

    async def aclose(self) -> None:
        """Close all connections."""
        for each in self._transports.values():
            await each.aclose()

    def _made(self, entity: ServedEntity, address: str, timeouts: Timeouts) -> Adapter:
        provider, account = provider_named(entity.provider), entity.account
        try:
            where = read_address(address, self._hosts, setting=SETTING)
            # A credential goes nowhere but to the address that it was given for, whatever an entity says.
            strayed = (
                account is not None and where.origin != read_address(account.base_url, self._hosts).origin
            )
            placed = _placed(address, where, provider)
            connected = self._connected(placed, timeouts)
        except ValueError as error:
            log.warning("the address of entity %r is refused: %s", entity.name, error)
            return engine_of(provider, _Nowhere(str(error)))
        secrets: Secrets
        if strayed:
            secrets = Missing("its credential is for another address")
        elif account is not None:
            secrets = secrets_of(account, self._sealing, self._folder)
        else:
            secrets = Fixed()
        if _unpaid(entity):
            secrets = Missing("its provider has no credential")
        options = dict(entity.options)
        access = (
            Signed(placed, options.get("region")) if provider.access == "aws" else InHeader(provider.access)
        )
        authorized = AuthorizedTransport(connected, access, secrets, headers=dict(provider.headers))
        return engine_of(provider, authorized, responses=speaks_responses(provider, placed, options))

    def _connected(self, address: str, timeouts: Timeouts) -> Transport:
        key = (address, timeouts)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transport(address, timeouts=timeouts, resolve=self._resolve_of(address))
            self._transports[key] = transport
        return transport

    def _resolve_of(self, address: str) -> Callable[[str, int], Any]:
        where = read_address(address, self._hosts, setting=SETTING)

        async def resolve(host: str, port: int) -> str:
            try:
                return await resolved(where, self._resolver)
            except AddressRefused as error:
                raise Forbidden(str(error)) from error

        return resolve


def _unpaid(entity: ServedEntity) -> bool:
    """Whether it lacks a credential that it cannot be called without: one that was erased, or its provider's own place."""
    provider = provider_named(entity.provider)
    if not provider.needs_credential:
        return False
    if entity.account is not None:
        return entity.account.source == "none"
    # Something else that speaks the dialect may ask for nothing.
    return provider.base_url is None or entity.base_url == provider.base_url


def _placed(address: str, where: Address, provider: Provider) -> str:
    """The address below which calls are made: without a path, OpenAI's family has its version there."""
    address = address.rstrip("/")
    bare = address == f"{'https' if where.tls else 'http'}://{where.authority}"
    return f"{address}/v1" if bare and provider.dialect == "openai" else address


def engine_of(provider: Provider, transport: Transport, *, responses: bool = False) -> Adapter:
    """The adapter that speaks a provider's dialect; `responses`: OpenAI's Responses beside its chat."""
    native = _NATIVE.get(provider.dialect)
    if native is None:
        return OpenAIEngine(
            transport,
            is_vllm=provider.name == "vllm",
            provider=provider,
            below="/v1",
            responses=responses,
        )
    module, name, embeds = native
    dialect = getattr(importlib.import_module(module), name)()
    shared = None
    if provider.dialect == "anthropic":
        shared = importlib.import_module("engines.anthropic.passing").SharedMessages()
    return NativeEngine(transport, dialect, embedding=dialect if embeds else None, shared=shared)


def _import(modules: list[str]) -> None:
    for each in modules:
        try:
            importlib.import_module(each)
        except ImportError:
            log.exception("%s cannot be imported; what needs it will fail", each)
