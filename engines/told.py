"""What an upstream said it used where it failed: in the body of its refusal, or in the frame of a stream that says so.

Looked for only once a call has failed, in so many bytes and no more. What is no count that can be is none: the failure stays
the failure that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from engines.canonical import Counted, Event, Usage
from engines.errors import EngineError, Garbled
from engines.messages import Count, WireUsage, believed
from engines.odd_counts import with_whole_counts
from engines.tally import can_be
from engines.transport import OpenResponse

MOST = 1 << 20
"""Of a longer body or frame nothing is read."""
_NOTHING = msgspec.Raw()
ReadUsage = Callable[[bytes], Count | None]
"""From a usage as a dialect writes it to its count; raises msgspec.MsgspecError for what is none."""


class _Around(msgspec.Struct, gc=False):
    """Where a usage may be: by itself, or in what it is told with."""

    usage: msgspec.Raw = _NOTHING
    usage_metadata: msgspec.Raw = msgspec.field(default=_NOTHING, name="usageMetadata")
    error: msgspec.Raw = _NOTHING
    response: msgspec.Raw = _NOTHING
    delta: msgspec.Raw = _NOTHING


_decode = msgspec.json.Decoder(_Around).decode
_decode_usage = msgspec.json.Decoder(WireUsage).decode


def told_count(read: ReadUsage, body: bytes) -> Count | None:
    """The count in an error's body, or in a frame; None where there is none that can be."""
    if len(body) > MOST:
        return None
    around = _around(body)
    if around is None:
        return None
    found = _found(read, around)
    if found is None:
        for each in (around.error, around.response, around.delta):
            inner = _around(bytes(each))
            if inner is not None and (found := _found(read, inner)) is not None:
                break
    return found


async def no_stream(opened: OpenResponse, read: ReadUsage) -> Garbled:
    """The failure of an answer that should have been a stream, with what it tells; closes it."""
    failure = Garbled("the answer is no event stream")
    try:
        if opened.headers.get("content-type", "").lower().startswith("application/json"):
            failure.count = told_count(read, await opened.rest())
    except EngineError:
        pass
    finally:
        opened.close()
    return failure


def note_told(failure: EngineError, read: ReadUsage, frame: bytes, before: Sequence[Event]) -> None:
    """Put on a stream's failure what its frame tells, else what the events did that came with it and before."""
    if failure.count is None:
        failure.count = told_count(read, frame) or _counted(before)


def count_of(usage: Usage | None) -> Count | None:
    """A usage in disjoint classes as a count; None where it cannot be."""
    if usage is None or not can_be(usage):
        return None
    return Count(usage.prompt, usage.completion, usage.cache_read, usage.reasoning, usage.cache_write)


def chat_count(usage: bytes) -> Count | None:
    """The count of a usage as OpenAI writes it; that of an embedding has no word for the output."""
    wire = _decode_usage(usage)
    if wire.completion_tokens is None and wire.total_tokens == wire.prompt_tokens:
        wire.completion_tokens = 0
    return None if wire.completion_tokens is None else believed(wire)


def _around(body: bytes) -> _Around | None:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _found(read: ReadUsage, around: _Around) -> Count | None:
    for each in (around.usage, around.usage_metadata):
        if each is not _NOTHING and (found := _read(read, bytes(each))) is not None:
            return found
    return None


def _read(read: ReadUsage, usage: bytes) -> Count | None:
    """The count, as an answer's would be read: where it is none as it stands, with its counts as whole numbers."""
    for again in (False, True):
        try:
            if again:
                usage = bytes(_decode(with_whole_counts(b'{"usage":%b}' % usage)).usage)
            return read(usage)
        except (msgspec.MsgspecError, RecursionError):
            continue
    return None


def _counted(events: Sequence[Event]) -> Count | None:
    """What the last of these that counts has counted."""
    for event in reversed(events):
        if isinstance(event, Counted) and (found := count_of(event.usage)) is not None:
            if not event.input_only:
                return found
            return msgspec.structs.replace(found, completion=0, reasoning=0, exact=False)
    return None
