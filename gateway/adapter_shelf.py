"""The adapters of this home as the admin API keeps them: received beside, checked, and put in place whole or not at all.

What is in place is never overwritten: another adapter under the same name is refused by the file system itself. Names of
files come from here alone, never from what is sent.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from engines.local.adapter_fit import fitting, misfit
from engines.local.adapter_keeper import Standing
from engines.local.adapters import CONFIG, WEIGHTS, Adapter, BadAdapter, read_adapter, right_name
from engines.local.launch import SHIPPED_ADAPTERS
from engines.local.models import LocalModel, NoSuchModel, local_model
from gateway.adapter_notes import FOLDER, read_standings
from gateway.settings import Settings

FILES = (CONFIG, WEIGHTS)
_COMING, _LEAVING = ".coming-", ".leaving-"
_ABANDONED_SECONDS = 3600
_PIECE = 1 << 20
_SPARE_BYTES = 256 << 20
"""What an upload leaves of the disk to everything else that writes here."""

Digests = Mapping[str, str]
"""SHA-256 of each of an adapter's files."""


class NameTaken(Exception):
    """Something else is in place under the name."""


class NoRoom(Exception):
    """The disk is too full."""


class NotOurs(Exception):
    """The adapter was not put here by this home, so it cannot be taken away here; the text says whose it is."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """One adapter that the engine's supervisor finds, or one that cannot be served."""

    name: str
    adapter: Adapter | None
    standing: Standing
    ships: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """An upload under way, in a folder that nothing looks into."""

    folder: Path
    digests: dict[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of each file that has arrived whole."""

    async def open(self, name: str) -> Incoming:
        """One of the two files, to be written; what is neither of them has no place."""
        return await asyncio.to_thread(Incoming, self, FILES[FILES.index(name)])


class Incoming:
    """A file that is written and digested off the event loop, a piece at a time."""

    def __init__(self, arrival: Arrival, name: str) -> None:
        self._arrival = arrival
        self._name = name
        self._file = (arrival.folder / name).open("xb")
        self._digest = hashlib.sha256()
        self._waiting = bytearray()

    async def write(self, data: bytes) -> None:
        """Append; the disk is asked once there is enough. Raises NoRoom."""
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            await asyncio.to_thread(self._flush)

    async def finish(self) -> None:
        """All of it has come: it goes to the disk itself. Raises NoRoom."""
        await asyncio.to_thread(self._finish)
        self._arrival.digests[self._name] = self._digest.hexdigest()

    def abandon(self) -> None:
        """No more of it will come."""
        with suppress(OSError):
            self._file.close()

    def _flush(self) -> None:
        try:
            self._file.write(self._waiting)
            self._file.flush()
        except OSError as problem:
            raise _translated(problem) from problem
        self._digest.update(self._waiting)
        self._waiting.clear()

    def _finish(self) -> None:
        self._flush()
        os.fsync(self._file.fileno())
        self._file.close()


class AdapterShelf:
    """The adapters below one home, for the model that its engine serves."""

    def __init__(self, home: Path, model: LocalModel) -> None:
        self._run_dir = home / "run"
        self._folder = home / FOLDER
        self.model = model

    def room_for(self, size: int) -> None:
        """Raise NoRoom unless so much may be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < size + _SPARE_BYTES:
            raise NoRoom(f"the disk that holds {FOLDER} has no room for {size:,} bytes more")

    def listed(self) -> list[Shelved]:
        """Every adapter, in order of name."""
        found, wrong = fitting((SHIPPED_ADAPTERS, self._folder), self.model)
        standings = read_standings(self._run_dir)
        told = [
            Shelved(name, each, standings.get(name, Standing(loaded=False)), self._ships(name))
            for name, each in found.items()
        ]
        told += [
            Shelved(name, None, Standing(loaded=False, reason=why), self._ships(name))
            for name, why in wrong.items()
        ]
        return sorted(told, key=lambda each: each.name)

    def named(self, name: str) -> Shelved | None:
        """One of them."""
        return next((each for each in self.listed() if each.name == name), None)

    def digests(self, adapter: Adapter) -> Digests:
        """What its files are, by reading all of them."""
        found: dict[str, str] = {}
        for each in FILES:
            with (adapter.path / each).open("rb") as file:
                found[each] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    @asynccontextmanager
    async def arriving(self, name: str) -> AsyncGenerator[Arrival]:
        """A folder to receive an adapter in; what was not put in place is gone at the block's end."""
        around = await asyncio.to_thread(self._fresh)
        try:
            folder = around / _right(name)
            folder.mkdir()
            yield Arrival(folder)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, around, True))

    def check(self, arrival: Arrival) -> Adapter:
        """What arrived; raises BadAdapter where it cannot be served by this engine."""
        adapter = read_adapter(arrival.folder)
        why = misfit(adapter, self.model)
        if why is not None:
            raise BadAdapter(why)
        return adapter

    def place(self, arrival: Arrival) -> Adapter:
        """Put it where the engine's supervisor looks; raises NameTaken."""
        target = self._folder / arrival.folder.name
        _sync(arrival.folder)
        try:
            # A folder that has something in it is never replaced.
            arrival.folder.rename(target)
        except OSError as problem:
            if problem.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise NameTaken from problem
            raise _translated(problem) from problem
        _sync(self._folder)
        return read_adapter(target)

    def remove(self, name: str) -> None:
        """Take an adapter away; raises NotOurs for one that is mounted, or ships."""
        leaving = self._folder / f"{_LEAVING}{_right(name)}-{os.getpid()}"
        try:
            (self._folder / name).rename(leaving)
        except FileNotFoundError:
            raise NotOurs("it ships with the gateway") from None
        except OSError as problem:
            raise NotOurs(
                f"its folder cannot be moved ({problem.strerror}), as where it is mounted"
            ) from problem
        shutil.rmtree(leaving, ignore_errors=True)

    def _ships(self, name: str) -> bool:
        return not (self._folder / name).exists()

    def _fresh(self) -> Path:
        """A new folder, after those are gone that killed workers left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".*"):
            if left.name.startswith((_COMING, _LEAVING)) and _age(left) > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_COMING, dir=self._folder))


def adapters_of(settings: Settings) -> AdapterShelf | None:
    """The shelf of an engine that is run from the settings' home; None where somebody else runs it, or nobody."""
    addresses = (settings.engine_url or "").split(",")
    if settings.engine == "none" or not all(each.strip().startswith("unix:") for each in addresses):
        return None
    try:
        return AdapterShelf(settings.home, local_model(settings.engine_model))
    except NoSuchModel:
        # The engine's own supervisor says so; there is nothing to fit an adapter to.
        return None


def _age(folder: Path) -> float:
    """Seconds since anything in it was written."""
    latest = 0.0
    for each in (folder, *folder.rglob("*")):
        try:
            latest = max(latest, each.stat().st_mtime)
        except OSError:
            continue
    return time.time() - latest


def _right(name: str) -> str:
    if not right_name(name):
        raise ValueError(f"{name!r} is no adapter's name")
    return name


def _sync(folder: Path) -> None:
    """Write a folder's entries through to the disk, so that a power cut leaves no name without its files."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _translated(problem: OSError) -> Exception:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(f"the disk that holds {FOLDER} is full")
    return problem
