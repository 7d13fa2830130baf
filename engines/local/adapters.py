"""Fine-tuned adapters (LoRA) of the local engine: what a folder must hold to be one, and which are found where.

Only safetensors are taken: other formats run code when they are read. What cannot be loaded is said before the engine
is asked, so that a broken adapter never reaches it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engines.local.launch import LARGEST_RANK

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_BYTES = 1 << 30
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LARGEST_HEAD = 16 << 20
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class BadAdapter(Exception):
    """The folder holds no adapter that can be served; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter on disk."""

    name: str
    """What callers name as model: its folder's name."""
    path: Path
    rank: int
    targets: tuple[str, ...]
    size: int
    """Bytes of its weights."""
    version: int
    """Changes when its files do: the latest time of either, in nanoseconds."""
    base: str = ""
    """The model that it says it was made for; "" where it does not."""
    shapes: Mapping[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Its matrices by name: two dimensions each, one of them the rank."""


def right_name(name: str) -> bool:
    """Whether it can name an adapter: lower-case letters, digits, dots, dashes and underscores."""
    return _NAME.fullmatch(name) is not None


def read_adapter(path: Path) -> Adapter:
    """Read one folder; raises BadAdapter."""
    if not right_name(path.name):
        raise BadAdapter(
            "a name takes up to 63 lower-case letters, digits, dots, dashes and underscores, and begins with one of the first two"
        )
    try:
        described: Any = json.loads((path / CONFIG).read_bytes())
        head = _shapes(path / WEIGHTS)
        stats = [(path / name).stat() for name in (CONFIG, WEIGHTS)]
    except FileNotFoundError as exc:
        raise BadAdapter(f"{Path(str(exc.filename)).name} is missing") from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise BadAdapter(f"it cannot be read: {exc}") from exc
    rank, targets = _described(described)
    for name, shape in head.items():
        kept = 0 if name.endswith(".lora_A.weight") else 1 if name.endswith(".lora_B.weight") else None
        if kept is None:
            raise BadAdapter("its weights are not lora_A and lora_B matrices alone")
        if len(shape) != 2 or shape[kept] != rank:
            raise BadAdapter(f"{name} is {shape}, which is not of rank {rank}")
    size = stats[1].st_size
    if size > LARGEST_BYTES:
        raise BadAdapter(f"its weights take {size:,} bytes; at most {LARGEST_BYTES:,} are taken")
    base: Any = described.get("base_model_name_or_path")
    return Adapter(
        path.name,
        path,
        rank,
        targets,
        size,
        max(each.st_mtime_ns for each in stats),
        base if isinstance(base, str) else "",
        head,
    )


def _described(described: Any) -> tuple[int, tuple[str, ...]]:
    if not isinstance(described, dict) or described.get("peft_type") != "LORA":  # pyright: ignore[reportUnknownMemberType]
        raise BadAdapter("its config does not say that it is a LoRA adapter (peft_type)")
    rank: Any = described.get("r")
    targets: Any = described.get("target_modules")
    if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise BadAdapter(f"its rank is {rank!r}; 1 to {LARGEST_RANK} can be served")
    if described.get("modules_to_save") or described.get("bias", "none") != "none":
        raise BadAdapter("it replaces whole modules or biases, which cannot be served beside the base model")
    if (
        not isinstance(targets, list) or not targets or not all(isinstance(each, str) for each in targets)  # pyright: ignore[reportUnknownVariableType]
    ):
        raise BadAdapter("its config names no target_modules")
    return rank, tuple(str(each) for each in targets)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _shapes(path: Path) -> dict[str, list[int]]:
    """The tensors of a file and their shapes; raises ValueError where it is no whole safetensors file."""
    # https://huggingface.co/docs/safetensors: eight bytes of length, then that much JSON, then the tensors.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LARGEST_HEAD:
            raise ValueError(f"{path.name} is not in the safetensors format")
        try:
            told = msgspec.json.decode(file.read(length), type=dict[str, _Tensor])
        except msgspec.MsgspecError as exc:
            raise ValueError(f"{path.name} is not in the safetensors format") from exc
    told.pop("__metadata__", None)
    end = 0
    for name, each in sorted(told.items(), key=lambda one: one[1].data_offsets):
        begin, stop = each.data_offsets
        if each.dtype not in _BYTES:
            raise ValueError(f"{path.name} holds {each.dtype or 'no type'}; {', '.join(_BYTES)} are taken")
        if (
            begin != end
            or stop - begin != _BYTES[each.dtype] * math.prod(each.shape)
            or min(each.shape, default=0) < 1
        ):
            raise ValueError(f"{path.name} contradicts itself on {name[:200]}")
        end = stop
    if not end or path.stat().st_size != 8 + length + end:
        raise ValueError(f"{path.name} is not whole")
    return {name: each.shape for name, each in told.items()}


class _Tensor(msgspec.Struct):
    dtype: str = ""
    shape: list[int] = []
    data_offsets: tuple[int, int] = (0, 0)


def scan(folders: Iterable[Path]) -> tuple[dict[str, Adapter], dict[str, str]]:
    """All adapters in the folders, later ones before earlier of the same name; and what is wrong with the others."""
    found: dict[str, Adapter] = {}
    wrong: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            # A name that begins with a dot is an upload on its way.
            if not path.is_dir() or path.name.startswith("."):
                continue
            try:
                found[path.name] = read_adapter(path)
                wrong.pop(path.name, None)
            except BadAdapter as bad:
                wrong[path.name] = str(bad)
    return found, {name: why for name, why in wrong.items() if name not in found}
