"""Fine-tuned adapters of the local engine over HTTP: uploaded, listed, taken away.

An upload is written to the disk as it comes and is in place whole or not at all. The audit knows of an adapter before the
engine can find it, and of its end before it is gone. One that something calls is neither replaced nor taken away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import multipart
from litestar import Controller, Request, Response, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct
from sqlalchemy import select

from engines.local.adapters import CONFIG, LARGEST_BYTES, WEIGHTS, Adapter, BadAdapter, right_name
from engines.local.launch import LARGEST_RANK
from gateway.adapter_shelf import (
    FILES,
    AdapterShelf,
    Arrival,
    Digests,
    Incoming,
    NameTaken,
    NoRoom,
    NotOurs,
    Shelved,
)
from gateway.errors import BadRequest, Conflict, NotFound, TooLarge, Unavailable, UnsupportedMedia
from gateway.http.admin.access import Admin, streamed_body
from gateway.http.admin.versions import IfMatch, Page, require_match
from gateway.store.changes import Change
from gateway.store.tables.catalog import endpoints, served_entities
from policies.administration import Permission

FIELDS = {"config": CONFIG, "weights": WEIGHTS}
"""Parts of an upload, and the file that each becomes, whatever file it says it was."""
LARGEST_CONFIG = 1 << 20
_LARGEST_BODY = LARGEST_BYTES + LARGEST_CONFIG + (64 << 10)
READ = {"permission": Permission.ADAPTERS_READ}
WRITE = {"permission": Permission.ADAPTERS_WRITE}


class AdapterView(Struct, frozen=True, kw_only=True):
    """One adapter."""

    name: str
    """What a served entity names as `model`."""
    ships: bool
    """Whether it came with the gateway; then it cannot be deleted."""
    loaded: bool
    """Whether the engine answers for it now."""
    reason: str
    """Why it cannot be served, where that is so."""
    rank: int | None
    target_modules: list[str]
    weight_bytes: int | None
    made_for: str
    """The base model that its config names."""
    sha256: dict[str, str] | None
    """Of each of its files; told where one adapter is read or uploaded."""


class Adapters(Controller):
    """Fine-tuned adapters of the local engine."""

    path = "/adapters"
    tags = ("Adapters",)

    @get("/", opt=READ, summary="List fine-tuned adapters of the local engine")
    async def list_all(self, admin: NamedDependency[Admin]) -> Page[AdapterView]:
        """All that its supervisor finds on this host, uploaded, mounted or shipped, whether they can be served or not."""
        found = await asyncio.to_thread(_shelf(admin).listed)
        return Page([_view(each) for each in found])

    @get("/{adapter_name:str}", opt=READ, summary="Read a fine-tuned adapter")
    async def read(self, admin: NamedDependency[Admin], adapter_name: FromPath[str]) -> Response[AdapterView]:
        """With the digests of its files, which are read for it; answers its version as `ETag`."""
        shelf = _shelf(admin)
        return _answer(*await _found(shelf, adapter_name))

    @put(
        "/{adapter_name:str}",
        opt=WRITE,
        summary="Upload a fine-tuned adapter",
        before_request=streamed_body,
        request_max_body_size=None,
    )
    async def upload(
        self, request: Request[Any, Any, Any], admin: NamedDependency[Admin], adapter_name: FromPath[str]
    ) -> Response[AdapterView]:
        """The two files that PEFT saves, as parts `config` and `weights` of a form.

        The same files again change nothing and are answered with 200; others under a name that is taken are refused with 409.
        """
        shelf = _shelf(admin)
        if not right_name(adapter_name) or adapter_name == shelf.model.name:
            raise BadRequest(
                f"{adapter_name[:80]!r} cannot name an adapter: up to 63 lower-case letters, digits, dots, dashes and underscores, "
                "not the base model's own name.",
                param="adapter_name",
            )
        parser = _parser(request)
        try:
            await asyncio.to_thread(shelf.room_for, max(0, parser.content_length))
            async with shelf.arriving(adapter_name) as arrival:
                await _receive(request.stream(), parser, arrival)
                adapter = await asyncio.to_thread(shelf.check, arrival)
                before = await _standing(shelf, adapter_name)
                if before is None:
                    async with admin.change() as change:
                        told = {"sha256": arrival.digests, "rank": adapter.rank, "weight_bytes": adapter.size}
                        await change.record("adapter", adapter_name, "upload", told)
                    await asyncio.to_thread(shelf.place, arrival)
                    found, _ = await _found(shelf, adapter_name, arrival.digests)
                    return _answer(found, arrival.digests, status_code=201)
                if before[1] != arrival.digests:
                    raise _taken(adapter_name)
                return _answer(*before)
        except BadAdapter as bad:
            raise BadRequest(f"The adapter cannot be served: {bad}.", code="invalid_adapter") from bad
        except NameTaken:
            raise _taken(adapter_name) from None
        except NoRoom as full:
            raise Unavailable(f"Nothing was stored: {full}.", retry_after_seconds=10) from full

    @delete("/{adapter_name:str}", opt=WRITE, summary="Delete a fine-tuned adapter")
    async def remove(
        self, admin: NamedDependency[Admin], adapter_name: FromPath[str], if_match: IfMatch = None
    ) -> None:
        """The engine unloads it within a second. Refused with 409 while a served entity names it."""
        shelf = _shelf(admin)
        found, digests = await _found(shelf, adapter_name)
        require_match({"from_change": _version(digests)}, if_match)
        if found.ships:
            raise Conflict(f"Adapter {adapter_name!r} ships with the gateway and cannot be deleted.")
        async with admin.change() as change:
            await _unused(change, adapter_name)
            await change.record("adapter", adapter_name, "delete", {"sha256": dict(digests or {})})
        try:
            await asyncio.to_thread(shelf.remove, adapter_name)
        except NotOurs as whose:
            raise Conflict(f"Adapter {adapter_name!r} cannot be deleted: {whose}.") from whose


async def _receive(
    stream: AsyncIterator[bytes], parser: multipart.PushMultipartParser, arrival: Arrival
) -> None:
    """The form's two parts to the disk; raises BadRequest for anything else that is in it."""
    file: Incoming | None = None
    begun: set[str] = set()
    room = 0
    try:
        with parser:
            async for chunk in stream:
                for event in parser.parse(chunk) if chunk else ():
                    if isinstance(event, multipart.MultipartSegment):
                        name = _file_of(event.name, begun)
                        begun.add(name)
                        room = LARGEST_CONFIG if name == CONFIG else LARGEST_BYTES
                        file = await arrival.open(name)
                    elif file is not None and event is None:
                        await file.finish()
                        file = None
                    elif file is not None and event is not None:
                        room -= len(event)
                        if room < 0:
                            raise _too_large()
                        await file.write(event)
    except multipart.ParserLimitReached as limit:
        raise _too_large() from limit
    except multipart.MultipartError as fault:
        raise BadRequest(f"The form cannot be read: {str(fault)[:200]}.") from fault
    finally:
        if file is not None:
            file.abandon()
    missing = [part for part, name in FIELDS.items() if name not in arrival.digests]
    if missing:
        raise BadRequest(
            f"The form lacks {' and '.join(missing)}: send {CONFIG} as config, {WEIGHTS} as weights.",
            param=missing[0],
        )


def _parser(request: Request[Any, Any, Any]) -> multipart.PushMultipartParser:
    """For the request's form; raises for what is none, or says itself that it is too large."""
    kind, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise UnsupportedMedia(
            f"Send a form (multipart/form-data) with {CONFIG} as config and {WEIGHTS} as weights:"
            " curl -X PUT -F config=@adapter_config.json -F weights=@adapter_model.safetensors"
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("Send the form as it is, not compressed.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _LARGEST_BODY:
        raise _too_large()
    return multipart.PushMultipartParser(
        boundary,
        int(length) if length.isdecimal() else -1,
        max_segment_size=LARGEST_BYTES,
        strict=True,
    )


def _file_of(part: str | None, begun: Collection[str]) -> str:
    name = FIELDS.get(part or "")
    if name is None:
        raise BadRequest(f"The form has a part {str(part)[:80]!r}; it takes config and weights.")
    if name in begun:
        raise BadRequest(f"The form has {part} twice.", param=part)
    return name


def _too_large() -> TooLarge:
    return TooLarge(
        f"An adapter's weights may take {LARGEST_BYTES >> 20:,} MiB, its config {LARGEST_CONFIG >> 20} MiB; a smaller rank makes "
        f"it smaller, and ranks above {LARGEST_RANK} are not served."
    )


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is another adapter {name!r}. Upload under a new name and let served entities name that, or delete this one first.",
        code="adapter_exists",
    )


def _shelf(admin: Admin) -> AdapterShelf:
    if admin.adapters is None:
        raise Conflict(
            "The local engine is not run from this gateway's home, or not at all: load adapters where it is run.",
            code="no_local_engine",
        )
    return admin.adapters


async def _standing(shelf: AdapterShelf, name: str) -> tuple[Shelved, Digests | None] | None:
    """What is in place under the name, with what its files are."""
    found = await asyncio.to_thread(shelf.named, name)
    if found is None:
        return None
    if found.adapter is None:
        return found, None
    return found, await asyncio.to_thread(shelf.digests, found.adapter)


async def _found(
    shelf: AdapterShelf, name: str, known: Digests | None = None
) -> tuple[Shelved, Digests | None]:
    found = await asyncio.to_thread(shelf.named, name) if known is not None else None
    standing = (found, known) if found is not None else await _standing(shelf, name)
    if standing is None:
        raise NotFound(f"There is no adapter {name[:80]!r}.")
    return standing


async def _unused(change: Change, name: str) -> None:
    """Raise Conflict while a served entity names the adapter."""
    users = (
        select(endpoints.c.name)
        .join(served_entities, served_entities.c.endpoint_id == endpoints.c.id)
        .where(
            endpoints.c.to_change.is_(None),
            served_entities.c.to_change.is_(None),
            served_entities.c.kind == "local",
            served_entities.c.model == name,
        )
        .order_by(endpoints.c.name)
        .limit(5)
    )
    found = list((await change.connection.execute(users)).scalars())
    if found:
        raise Conflict(
            f"Adapter {name!r} is what {', '.join(found)} answers with; let something else answer first.",
            code="adapter_in_use",
        )


def _version(digests: Digests | None) -> str:
    return "unreadable" if digests is None else "-".join(digests[name][:16] for name in FILES)


def _answer(found: Shelved, digests: Digests | None, *, status_code: int = 200) -> Response[AdapterView]:
    return Response(
        _view(found, digests), status_code=status_code, headers={"etag": f'"{_version(digests)}"'}
    )


def _view(each: Shelved, digests: Digests | None = None) -> AdapterView:
    adapter: Adapter | None = each.adapter
    return AdapterView(
        name=each.name,
        ships=each.ships,
        loaded=each.standing.loaded,
        reason=each.standing.reason,
        rank=None if adapter is None else adapter.rank,
        target_modules=[] if adapter is None else list(adapter.targets),
        weight_bytes=None if adapter is None else adapter.size,
        made_for="" if adapter is None else adapter.base,
        sha256=None if digests is None else dict(digests),
    )
