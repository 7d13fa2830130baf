"""Whether an adapter was made for the model that is served: its base by name, its matrices by the model's shape.

An adapter that does not fit is told so before it is stored; what this knows no shape for is left to the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from engines.local.adapters import Adapter, scan
from engines.local.models import LocalModel
from engines.mixture.shape import Shape


def fitting(folders: Iterable[Path], model: LocalModel | None) -> tuple[dict[str, Adapter], dict[str, str]]:
    """The adapters in the folders that the model can be served with, and what is wrong with the others.

    Without a model, all that are whole.
    """
    found, wrong = scan(folders)
    for name, adapter in list(found.items()):
        why = None if model is None else misfit(adapter, model)
        if why is not None:
            del found[name]
            wrong[name] = why
    return found, wrong


def misfit(adapter: Adapter, model: LocalModel) -> str | None:
    """Why the adapter is not one of this model, None where it may be."""
    made_for = adapter.base.rstrip("/").rpartition("/")[2].casefold()
    if (
        made_for
        and made_for != model.source.rpartition("/")[2].casefold()
        and made_for != model.name.casefold()
    ):
        return (
            f"it was made for {adapter.base!r}, and the engine serves {model.name!r}; where that is the same model, say so in "
            "base_model_name_or_path of its adapter_config.json"
        )
    shape = model.shape
    for name, dimensions in adapter.shapes.items():
        # For instance base_model.model.model.layers.3.block_sparse_moe.experts.7.w1.lora_A.weight.
        parts = name.split(".")
        layer, expert = _after(parts, "layers"), _after(parts, "experts")
        if layer is not None and layer >= shape.layers:
            return f"{name} is of layer {layer}, and {model.name} has {shape.layers}"
        if expert is not None and expert >= shape.experts:
            return f"{name} is of expert {expert}, and {model.name} has {shape.experts}"
        module, side = parts[-3:-1] if len(parts) > 3 else ("", "")
        widths = _widths(shape, module, of_expert=expert is not None)
        if widths is None:
            continue
        # A is rank x what goes in, B is what comes out x rank.
        wanted, given = (widths[0], dimensions[1]) if side == "lora_A" else (widths[1], dimensions[0])
        if wanted != given:
            return f"{name} is for a width of {given}, and {module} of {model.name} has {wanted}"
    return None


def _after(parts: Sequence[str], word: str) -> int | None:
    """The number that follows a word in a name's parts."""
    for one, following in pairwise(parts):
        if one == word and following.isdecimal() and len(following) < 8:
            return int(following)
    return None


def _widths(shape: Shape, module: str, *, of_expert: bool) -> tuple[int, int] | None:
    """What goes into a module and what comes out of it, None where the shape does not say."""
    if of_expert:
        if module in ("w1", "w3", "gate_proj", "up_proj"):
            return shape.hidden, shape.expert_width
        if module in ("w2", "down_proj"):
            return shape.expert_width, shape.hidden
    if shape.latent is None:
        if module == "q_proj":
            return shape.hidden, shape.heads * shape.head_width
        if module in ("k_proj", "v_proj"):
            return shape.hidden, shape.kv_heads * shape.head_width
        if module == "o_proj":
            return shape.heads * shape.head_width, shape.hidden
    return None
