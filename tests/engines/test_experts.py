"""What an answer tells of its experts is counted and taken out, and whatever is no such thing is left alone."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.adapter import Call
from engines.experts import ExpertLoad, balances
from engines.openai import OpenAIEngine
from engines.transport import Response, Transport
from gateway.cli.experts import read_counts


def npy(routed: list[list[list[int]]], *, descr: str = "|u1", letter: str = "B", version: int = 1) -> bytes:
    """A file as numpy.save writes it: tokens, layers, experts that were chosen."""
    shape = (len(routed), len(routed[0]), len(routed[0][0]))
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = head.ljust(118) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    flat = [expert for token in routed for layer in token for expert in layer]
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + struct.pack(f"<{len(flat)}{letter}", *flat)


def answer(*routed: bytes | None, content: str = "Hello.") -> bytes:
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "stop",
            "token_ids": None,
            "routed_experts": None if each is None else base64.b64encode(each).decode(),
        }
        for index, each in enumerate(routed)
    ]
    return json.dumps({"choices": choices, "usage": {"total_tokens": 3}}, separators=(",", ":")).encode()


ROUTED = [[[0, 1], [7, 2]], [[0, 3], [7, 1]], [[0, 1], [7, 2]]]
EXPECTED = Counter({(0, 0): 3, (0, 1): 2, (0, 3): 1, (1, 7): 3, (1, 2): 2, (1, 1): 1})


@pytest.mark.parametrize(
    ("descr", "letter", "version"), [("|u1", "B", 1), ("<u2", "H", 1), ("<i4", "i", 1), ("|u1", "B", 2)]
)
def test_tokens_are_counted_by_layer_and_expert_and_the_client_gets_none_of_it(
    descr: str, letter: str, version: int
) -> None:
    load = ExpertLoad()
    told = npy(ROUTED, descr=descr, letter=letter, version=version)
    left = json.loads(load.read(answer(told, told)))
    assert load.counts == Counter({key: 2 * count for key, count in EXPECTED.items()})
    assert left == json.loads(answer(None, None))
    assert load.taken() and not load.counts


@pytest.mark.parametrize(
    "body",
    [
        answer(None),
        answer(None, content='it says "routed_experts":"AAAA" in quotes'),
        b"",
        b"no JSON",
    ],
)
def test_what_tells_nothing_is_left_as_it_is(body: bytes) -> None:
    load = ExpertLoad()
    assert load.read(body) == body
    assert not load.counts


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x93NUMPY",
        npy(ROUTED)[:-1],
        npy(ROUTED) + b"\0",
        npy(ROUTED).replace(b"NUMPY", b"NUMPZ"),
        npy(ROUTED).replace(b"False", b"True "),
        npy(ROUTED).replace(b"(3, 2, 2)", b"(0, 2, 2)"),
        npy(ROUTED).replace(b"|u1", b"<f8"),
    ],
)
def test_what_is_broken_is_taken_out_and_not_counted(broken: bytes) -> None:
    load = ExpertLoad()
    left = json.loads(load.read(answer(broken)))
    assert left == json.loads(answer(None))
    assert not load.counts


@given(st.binary(max_size=300))
def test_nothing_that_comes_in_the_field_raises(data: bytes) -> None:
    ExpertLoad().read(b'{"a":1,"routed_experts":"' + base64.b64encode(data) + b'"}')


def test_the_balance_names_the_busiest_and_the_idlest_expert_and_how_far_they_are_from_even() -> None:
    even, uneven = balances({(0, e): 10 for e in range(4)} | {(1, 0): 30, (1, 1): 10}, 4)
    assert (even.layer, even.tokens, even.skew, even.busiest_share) == (0, 40, 1.0, 0.25)
    assert (uneven.busiest, uneven.busiest_share, uneven.idlest, uneven.idlest_share) == (0, 0.75, 2, 0.0)
    assert uneven.skew == 3.0
    assert balances({}) == []


class Told:
    """A transport to an upstream that answers one body."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200, {}, self.body)


async def test_the_local_engines_answers_are_counted_and_no_other_is_touched() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    call = Call("/v1/chat/completions", body, "mixtral-demo", 16, {})
    load = ExpertLoad()
    told = Told(answer(npy(ROUTED)))
    ours = OpenAIEngine(cast("Transport", told), is_vllm=True, experts=load)
    assert json.loads((await ours.complete(call)).body) == json.loads(answer(None))
    assert load.counts == EXPECTED
    theirs = OpenAIEngine(cast("Transport", told), is_vllm=False)
    assert (await theirs.complete(call)).body == told.body


def test_the_command_reads_what_the_workers_count(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gateway.telemetry import Telemetry\n"
        "kept = Telemetry(Path(sys.argv[1])); kept.experts({(0, 1): 5, (31, 7): 2}); kept.experts({(0, 1): 1})\n"
        "sys.stdout.buffer.write(kept.page())"
    )
    # The library binds to its folder when it is first imported: a process of its own.
    page = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True, text=True
    ).stdout
    assert read_counts(page) == Counter({(0, 1): 6, (31, 7): 2})
    assert read_counts("") == Counter()
