"""The end of a stream that is kept is found wherever it stands in what the client is given last."""

from __future__ import annotations

import pytest

from gateway.http.openai.conversation import end_in

DELTA = b'event: response.output_text.delta\ndata: {"delta":"event: response.completed"}\n\n'
ENDED = b'event: response.completed\ndata: {"response":{"id":"resp_1"}}\n\n'
SHORT = ENDED.replace(b"completed", b"incomplete")


@pytest.mark.parametrize("before", [b"", DELTA, DELTA * 3], ids=["alone", "after a piece", "after several"])
@pytest.mark.parametrize("end", [ENDED, SHORT], ids=["completed", "incomplete"])
def test_an_end_is_found_alone_and_after_the_pieces_that_waited_with_it(before: bytes, end: bytes) -> None:
    assert end_in(before + end) == b'{"response":{"id":"resp_1"}}'


@pytest.mark.parametrize("frames", [b"", DELTA, ENDED.replace(b"completed", b"failed"), ENDED + DELTA])
def test_what_is_no_end_is_not_kept(frames: bytes) -> None:
    assert end_in(frames) is None
