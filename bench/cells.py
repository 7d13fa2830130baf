"""The cells of the benchmark: which calls, how many at once, and the bodies that make them.

Bodies are some 740 bytes; half of them carry `max_tokens`, half do not. The scriptable upstream reads from the
prompt how it is to answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

CHUNKS = 64
BODY_BYTES = 740
_FILLER = "Weigh each request on its way in and once more on its way out, then settle the difference. "


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    name: str
    concurrency: int
    stream: bool
    script: str
    """What the upstream does, in its own words."""
    title: str


CELLS = (
    Cell("plain-1", 1, False, "tokens=16", "plain, 1 at once"),
    Cell("plain-16", 16, False, "tokens=16", "plain, 16 at once"),
    Cell("plain-64", 64, False, "tokens=16", "plain, 64 at once"),
    Cell("burst-16", 16, True, f"tokens={CHUNKS}", "64 chunks at once, 16 streams"),
    Cell("paced-16", 16, True, f"tokens={CHUNKS} delay=5ms", "64 chunks 5 ms apart, 16 streams"),
)


def bodies(cell: Cell, model: str) -> tuple[bytes, bytes]:
    """The cell's body with `max_tokens` and without."""
    return _body(cell, model, 64), _body(cell, model, None)


def _body(cell: Cell, model: str, max_tokens: int | None) -> bytes:
    value: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": f"[[{cell.script}]] What does a weighbridge do?"},
        ],
        "temperature": 0,
    }
    if max_tokens is not None:
        value["max_tokens"] = max_tokens
    if cell.stream:
        value["stream"] = True
        value["stream_options"] = {"include_usage": True}
    room = BODY_BYTES - len(json.dumps(value, separators=(",", ":")))
    system = (_FILLER * (1 + room // len(_FILLER)))[: max(room, 0)]
    value["messages"][0]["content"] = system  # type: ignore[index]
    return json.dumps(value, separators=(",", ":")).encode()
