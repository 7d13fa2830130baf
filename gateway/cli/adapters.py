"""`weighbridge engine adapters`: put fine-tuned adapters where the local engine finds them, list and remove them.

An adapter appears whole or not at all; the engine's supervisor loads it within a second, without a restart.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engines.local.adapter_fit import fitting
from engines.local.adapters import CONFIG, LARGEST_BYTES, WEIGHTS, BadAdapter, read_adapter, right_name
from engines.local.launch import SHIPPED_ADAPTERS
from engines.local.models import LocalModel
from gateway.adapter_notes import FOLDER, read_standings
from gateway.cli.reach import AdminApi


class CannotAdapt(Exception):
    """The text says why, and what to do."""


def add(home: Path, source: Path, name: str | None) -> str:
    """Copy an adapter from a folder, under its own or another name; what a client then names as model."""
    name = name or source.resolve().name.lower()
    if not right_name(name):
        raise CannotAdapt(_unnamable(name))
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    coming, leaving = folder / f".{name}" / name, folder / f".{name}" / "before"
    shutil.rmtree(coming.parent, ignore_errors=True)
    coming.mkdir(parents=True)
    try:
        for each in (CONFIG, WEIGHTS):
            if not (source / each).is_file():
                raise CannotAdapt(_lacks(source, each))
            shutil.copyfile(source / each, coming / each)
        try:
            made = read_adapter(coming)
        except BadAdapter as bad:
            raise CannotAdapt(f"{source} cannot be served: {bad}.") from bad
        if (folder / name).exists():
            (folder / name).rename(leaving)
        coming.rename(folder / name)
    finally:
        shutil.rmtree(coming.parent, ignore_errors=True)
    return f"{name}: rank {made.rank}, {made.size:,} bytes. Make a served entity with this as its model to let people call it."


def upload(api: AdminApi, source: Path, name: str | None) -> str:
    """Send an adapter to the running gateway, under its own or another name."""
    name = name or source.resolve().name.lower()
    parts = {"config": source / CONFIG, "weights": source / WEIGHTS}
    for file in parts.values():
        if not file.is_file():
            raise CannotAdapt(_lacks(source, file.name))
    if parts["weights"].stat().st_size > LARGEST_BYTES:
        raise CannotAdapt(
            f"{parts['weights']} is larger than the {LARGEST_BYTES >> 20:,} MiB that are taken."
        )
    if not right_name(name):
        raise CannotAdapt(_unnamable(name))
    made = api.upload(f"/adapters/{name}", parts)
    return f"{made['name']}: rank {made['rank']}, {made['weight_bytes']:,} bytes, {WEIGHTS} is sha256:{made['sha256'][WEIGHTS]}."


def _lacks(source: Path, file: str) -> str:
    return f"{source} has no {file}; give the folder that PEFT's save_pretrained writes, with safetensors."


def _unnamable(name: str) -> str:
    return f"{name!r} cannot name an adapter; give --name with lower-case letters, digits, dots, dashes, underscores."


def remove(home: Path, name: str) -> str:
    """Take an adapter away; the engine unloads it within a second."""
    path = home / FOLDER / name
    if not right_name(name) or not path.is_dir():
        raise CannotAdapt(f"There is no adapter {name!r} in {home / FOLDER}.")
    leaving = path.with_name(f".{name}-leaving")
    path.rename(leaving)
    shutil.rmtree(leaving)
    return f"{name} is gone."


def listed(home: Path, model: LocalModel | None = None) -> list[str]:
    """A line for each adapter: what it is, and whether the engine has it."""
    found, wrong = fitting((SHIPPED_ADAPTERS, home / FOLDER), model)
    standings = read_standings(home / "run")
    lines: list[str] = []
    for name in sorted({*found, *wrong}):
        if name in wrong:
            lines.append(f"{name:<24} cannot be served: {wrong[name]}")
            continue
        standing = standings.get(name)
        how = "loaded" if standing is not None and standing.loaded else "not loaded"
        if standing is not None and standing.reason:
            how = f"not loaded: {standing.reason}"
        lines.append(f"{name:<24} rank {found[name].rank:<4}{found[name].size:>12,} bytes  {how}")
    return lines or [f"There is no adapter; put one into {home / FOLDER}, or use `adapters add`."]
