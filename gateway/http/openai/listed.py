"""A kept conversation as OpenAI lists what a response was made from: every item whole, each under an id that stays the same.

What a client sent in short is told in full; an item that came without an id has one made of its turn and its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from gateway.pipeline.turns import Turn

_PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def listed(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """What the last of the turns was made from, the first item first: the turns before it, and its own input."""
    items: list[dict[str, Any]] = []
    for turn in turns:
        items += (_whole(item, turn.id, at) for at, item in enumerate(turn.asked))
        if turn is not turns[-1]:
            items += turn.response["output"]
    return items


def page_of(items: Sequence[dict[str, Any]], *, after: str | None, limit: int) -> dict[str, Any] | None:
    """A page of a list; None where `after` is none of it."""
    begin = 0
    if after is not None:
        begin = next((at + 1 for at, item in enumerate(items) if item["id"] == after), -1)
        if begin < 0:
            return None
    page = list(items[begin : begin + limit])
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + limit < len(items),
    }


def _whole(item: dict[str, Any], turn_id: str, at: int) -> dict[str, Any]:
    kind = item.get("type", "message")
    made = f"{_PREFIX.get(kind, 'item')}_{turn_id.removeprefix('resp_')}_{at}"
    told = {**item, "id": item.get("id") or made, "type": kind}
    if kind == "reasoning":
        return {"summary": [], **told}
    told["status"] = item.get("status") or "completed"
    if kind == "message":
        told["content"] = _parts(item.get("content"), said=item.get("role") == "assistant")
    return told


def _parts(content: Any, *, said: bool) -> list[dict[str, Any]]:
    """A message's content in parts, each of the kind that its role has."""
    if type(content) is str:
        content = [{"type": "text", "text": content}]
    return [_part(part, said=said) for part in cast("list[dict[str, Any]]", content)]


def _part(part: dict[str, Any], *, said: bool) -> dict[str, Any]:
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            told = {**part, "type": "output_text" if said else "input_text"}
            return {"annotations": [], "logprobs": [], **told} if said else told
        case "input_image":
            return {"detail": "auto", **part}
        case _:
            return part
