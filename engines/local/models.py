"""Which model the local engine serves: the one that ships, or the one that an operator names; and its shape.

What memory, recipes and adapters are checked against is read from the model's own config, never guessed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engines.local.launch import DEMO_MODEL, DEMO_NAME
from engines.mixture.known import CONFIGS
from engines.mixture.shape import Shape, UnknownShape, read_shape


class NoSuchModel(ValueError):
    """What is named cannot be served; the text says why and what to name instead."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that the local engine can be told to serve."""

    source: str
    """Its folder, or its name at the hub that vLLM fetches it from."""
    name: str
    """What it is served as, which callers see in the reply's `model`."""
    shape: Shape

    @property
    def ships(self) -> bool:
        """Whether it is the demonstration model of this project."""
        return self.source == str(DEMO_MODEL)


def local_model(named: str | None) -> LocalModel:
    """The model that `named` means: a folder with a config.json, a known name, or nothing; raises NoSuchModel."""
    if named is None:
        return LocalModel(str(DEMO_MODEL), DEMO_NAME, _shape_of(DEMO_MODEL))
    if named in CONFIGS:
        return LocalModel(named, named.rpartition("/")[2], read_shape(CONFIGS[named], named))
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise NoSuchModel(
            f"{named!r} is neither a folder nor a known model. Give the folder that holds the model's config.json and "
            f"weights, or one of: {', '.join(CONFIGS)}."
        )
    folder = folder.resolve()
    return LocalModel(str(folder), folder.name, _shape_of(folder))


def _shape_of(folder: Path) -> Shape:
    path = folder / "config.json"
    try:
        return read_shape(json.loads(path.read_bytes()), folder.name)
    except (OSError, ValueError, AttributeError, UnknownShape) as exc:
        raise NoSuchModel(f"{path} cannot be read as a model's config: {exc}.") from exc
