"""The one guard of the control plane, and what its handlers work with.

A route without a permission in its `opt` is refused to everyone: forgetting to decide is deciding no.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from litestar import Response
from litestar.connection import ASGIConnection, Request
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapter_shelf import AdapterShelf
from gateway.counters.levels import CounterLevels
from gateway.errors import BadRequest, Forbidden, TooManyFailures, Unauthenticated
from gateway.http.admin.once import CURRENT, Once, read_once
from gateway.http.admin.versions import Page, optional_id, require_match
from gateway.http.credentials import read_credential
from gateway.http.origin import Origins
from gateway.http.strict_json import decode_object
from gateway.ids import text
from gateway.pipeline.line import Trail
from gateway.pipeline.ports import Keys
from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.security.sessions import Sessions
from gateway.store.catalog import FollowedCatalog
from gateway.store.changes import Actor, Change, Configuration
from gateway.store.history import History
from gateway.store.reading import Row, current, page
from policies.administration import Permission, may_administer
from policies.catalog import Snapshot
from policies.decision import Deny
from policies.principal import Caller

T = TypeVar("T")
_LONGEST_REASON = 500
_LONGEST_ROUTE = 200


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The parts that the control plane is made of."""

    keys: Keys
    catalog: FollowedCatalog
    configuration: Configuration
    peppers: Peppers
    sealing: Sealing
    sessions: Sessions
    levels: CounterLevels | None = None
    """Reads how full limits and budgets are; None where nothing counts."""
    webhook_hosts: frozenset[str] = frozenset()
    """Hosts to which events may go although they are private, or by plain http."""
    provider_hosts: frozenset[str] = frozenset()
    """Hosts at which providers may be although they are private, or by plain http."""
    history: History = field(default_factory=History)
    """Builds the configuration as it was."""
    origins: Origins = field(default_factory=Origins)
    """Reads where requests come from."""
    trail: Trail | None = None
    """Keeps who was refused what; None where nothing is kept."""
    adapters: AdapterShelf | None = None
    """Adapters of the local engine; None where it is not run from here."""


class Guard:
    """Finds the caller of a control-plane route and asks policies whether it may."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    def __deepcopy__(self, memo: object) -> Guard:
        # Litestar copies handlers with all that they carry; the parts behind a guard exist once.
        return self

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """Raises Unauthenticated, Forbidden or Unavailable; else the caller is in the connection's state."""
        credential = read_credential(connection.scope["headers"])
        snapshot = self._control.catalog.snapshot
        caller = self._control.keys.known(credential)
        if caller is None:
            address = self._control.origins.of(connection.scope)
            caller = await self._control.keys.verify(credential, snapshot, address)
        connection.state["caller"] = caller
        permission = handler.opt.get("permission")
        if not isinstance(permission, Permission):
            raise Forbidden("This route has no permission that would allow it.")
        match may_administer(caller, permission):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                pass


class Admin:
    """One request to the control plane: who asks, and the configuration to read or change on its behalf."""

    __slots__ = ("_control", "_once", "caller", "reason")

    def __init__(
        self, control: ControlPlane, caller: Caller, reason: str | None, once: Once | None = None
    ) -> None:
        self._control = control
        self._once = once
        self.caller = caller
        self.reason = reason

    @property
    def snapshot(self) -> Snapshot:
        """The configuration as this worker sees it."""
        return self._control.catalog.snapshot

    @property
    def peppers(self) -> Peppers:
        """What new keys are digested with."""
        return self._control.peppers

    @property
    def sealing(self) -> Sealing:
        """What secrets that must be read again are sealed with."""
        return self._control.sealing

    @property
    def sessions(self) -> Sessions:
        """What makes the gateway's own tokens."""
        return self._control.sessions

    @property
    def levels(self) -> CounterLevels | None:
        """Reads how full limits and budgets are."""
        return self._control.levels

    @property
    def history(self) -> History:
        """Builds the configuration as it was."""
        return self._control.history

    @property
    def adapters(self) -> AdapterShelf | None:
        """Adapters of the local engine; None where it is not run from here."""
        return self._control.adapters

    @property
    def provider_hosts(self) -> frozenset[str]:
        """Hosts at which providers may be although they are private, or by plain http."""
        return self._control.provider_hosts

    @property
    def webhook_hosts(self) -> frozenset[str]:
        """Hosts to which events may go although they are private, or by plain http."""
        return self._control.webhook_hosts

    @asynccontextmanager
    async def change(self, reason: str | None = None, *, file: str | None = None) -> AsyncGenerator[Change]:
        """A change by the caller; when it has committed, this worker sees it before it answers."""
        who = Actor(self.caller.principal.id, self.caller.principal.name)
        once, configuration = self._once, self._control.configuration
        if once is not None:
            made = configuration.change(who, reason or self.reason, file=file, claim=once.claim)
            async with once.making(made) as change:
                yield change
            return
        async with configuration.change(who, reason or self.reason, file=file) as change:
            yield change
        await self._control.catalog.refresh()

    @asynccontextmanager
    async def revising(
        self, table: Table, object_id: UUID, kind: str, if_match: str | None
    ) -> AsyncGenerator[tuple[Change, Row]]:
        """A change of one object, made for the version that `if_match` names; the object as it is."""
        async with self.change() as change:
            before = await change.current(table, str(object_id), kind)
            require_match(before, if_match)
            yield change, before

    async def read(self, table: Table, object_id: UUID, kind: str) -> Row:
        """The object's current version; raises NotFound."""
        async with self.reading() as connection:
            return await current(connection, table, str(object_id), kind)

    async def listed(
        self, view: Callable[[Row], T], table: Table, *conditions: Any, after: UUID | None, size: int
    ) -> Page[T]:
        """A page of current versions that meet the conditions, as `view` shows them."""
        async with self.reading() as connection:
            found, following = await page(connection, table, *conditions, after=optional_id(after), size=size)
        return Page([view(row) for row in found], following)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that reads one moment of the configuration."""
        async with self._control.configuration.reading() as connection:
            yield connection


_DATA = ("/v1/", "/responses/", "/serving-endpoints/", "/openai/", "/ai-gateway/")
"""Where paths of the data plane begin."""


def noting_refusals(control: ControlPlane) -> Callable[[Exception, Scope], None]:
    """A hook that leaves a trail of requests to the control plane that were refused."""

    def note(error: Exception, scope: Scope) -> None:
        if control.trail is None or not isinstance(error, (Forbidden, Unauthenticated, TooManyFailures)):
            return
        caller: Caller | None = scope.get("state", {}).get("caller")
        control.trail.refused(
            None if caller is None else caller.principal.id,
            f"{scope.get('method', '')} {scope['path']}"[:_LONGEST_ROUTE],
            error.code,
            address=control.origins.of(scope),
            # Models are listed, and kept responses read, behind the same guard.
            plane="data" if scope["path"].startswith(_DATA) else "control",
        )

    return note


def provide_admin(control: ControlPlane) -> Any:
    """The dependency `admin` of every handler behind the guard."""

    async def admin(request: Request[Any, Any, Any]) -> AsyncGenerator[Admin]:
        reason = request.headers.get("x-weighbridge-reason")
        if reason is not None and (len(reason) > _LONGEST_REASON or not reason.isprintable()):
            raise BadRequest(
                f"x-weighbridge-reason takes up to {_LONGEST_REASON} printable characters.",
                param="x-weighbridge-reason",
            )
        once: Once | None = request.state.get("once")
        try:
            yield Admin(control, request.state["caller"], reason, once)
        finally:
            # After its answer was kept there is nothing left to undo.
            if once is not None:
                await once.abandon()

    return admin


def request_ids(control: ControlPlane) -> Callable[[Response[Any]], Response[Any]]:
    """A hook that names every answer of the control plane, as the data plane names its own."""

    def stamp(response: Response[Any]) -> Response[Any]:
        response.headers.setdefault("x-request-id", text(control.configuration.ids.make()))
        return response

    return stamp


def keeping_answers(control: ControlPlane) -> Callable[[Response[Any]], Awaitable[Response[Any]]]:
    """The same, for routes that take an Idempotency-Key: commits the change with its answer."""
    stamp = request_ids(control)

    async def finish(response: Response[Any]) -> Response[Any]:
        once = CURRENT.get()
        if once is not None and await once.commit(response):
            await control.catalog.refresh()
        return stamp(response)

    return finish


def bodies_and_keys(control: ControlPlane) -> Callable[[Request[Any, Any, Any]], Awaitable[None]]:
    """`strict_body`, for routes that take an Idempotency-Key."""

    async def prepare(request: Request[Any, Any, Any]) -> None:
        await strict_body(request)
        once = await read_once(request, control.configuration.chain_key)
        request.state["once"] = once
        CURRENT.set(once)

    return prepare


async def streamed_body(request: Request[Any, Any, Any]) -> None:
    """The same, for a route that reads its body as it comes; the body's digest takes the place of a key."""
    request.state["once"] = None
    CURRENT.set(None)


async def strict_body(request: Request[Any, Any, Any]) -> None:
    """A hook that refuses a body which two readers could understand in two ways, before it is decoded."""
    body = await request.body()
    if body:
        decode_object(body)
