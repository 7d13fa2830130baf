"""What streams are said to have said: never less than their words, so that no true count is more than that."""

from __future__ import annotations

import msgspec

from engines.canonical import ReasoningDelta, TextDelta, ToolCallBegan
from engines.chat_stream import ChatStream
from engines.tally import Tally


def test_what_a_stream_said_is_never_less_than_its_words_and_near_them_where_it_passes_through() -> None:
    words = [f"w{number} " for number in range(200)]
    chunks = [{"role": "assistant", "content": ""}, *({"content": each} for each in words), {}]
    events = [{"id": "c", "model": "m", "choices": [{"index": 0, "delta": each}]} for each in chunks]
    data = b"".join(b"data: %b\n\n" % msgspec.json.encode(each) for each in events) + b"data: [DONE]\n\n"
    passing = ChatStream(show_usage=False, show_running=False, limit=10_000)
    passing.feed(data)
    said = sum(map(len, words))
    assert said <= passing.said < said + 200 * len(b"\n\n") + 300
    translated = Tally(limit=10_000, most=None)
    for each in words:
        translated.fits(TextDelta(each))
    assert translated.said == said
    # A call costs more than its arguments, and a thought that is not shown leaves its proof.
    translated.fits(ToolCallBegan(0, "call", "look"))
    translated.fits(ReasoningDelta(signature="s" * 900))
    assert translated.said >= said + 900 + 100
