"""A chat completion's stream that came whole, translated at once: its words go from one dialect's frames into the other's.

It says, counts and shows what reading it event by event would; what is not sure of that is read so. The tests hold it to it.
"""

from __future__ import annotations

from engines.canonical import Began, Counted, Ended, Event, TextDelta, Usage
from engines.chat_stream import ChatStream
from engines.dialects import EventWriter
from engines.errors import EngineError
from engines.forms import Forms, named
from engines.openai_chat.provider import ChatReader, disjoint, stopped
from engines.pieces import KEPT, Pieces, written_texts
from engines.translated_stream import TranslatedStream
from engines.whole import Whole

_UNLIMITED = 1 << 40


class TranslatedChat(TranslatedStream):
    """A translated stream of chunks; `forms` are those of earlier ones of the same upstream, and none but theirs."""

    __slots__ = ("_chat", "_forms", "_written")

    def __init__(
        self,
        source: ChatReader,
        writer: EventWriter,
        *,
        limit: int,
        most: int | None,
        show_usage: bool,
        forms: Forms,
    ) -> None:
        super().__init__(source, writer, limit=limit, most=most, show_usage=show_usage)
        self._chat = source
        self._forms: Forms | None = forms
        self._written: list[bytes] = []
        """The words of an answer that came whole, as JSON writes them."""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        forms, self._forms = self._forms, None
        if forms is None:
            return super().feed(data)
        whole = forms.read(data, self.limit, True, True)
        shown = None if whole is None else self._whole(whole)
        if shown is None:
            shown = super().feed(data)
            if whole is None and self.done:
                _study(forms, data, running=self._chat.running)
        return shown

    def pieces(self) -> Pieces | None:
        """The words as they came, if there are only words."""
        if self._written:
            self._texts, self._written = written_texts(self._written), []
        return super().pieces()

    def _whole(self, whole: Whole) -> bytes | None:
        """All that the client gets; None, and nothing counted, where it is to be read event by event."""
        if whole.running and not self._chat.running:
            return None
        words = whole.texts
        joined = b"".join(words)
        if b"\\" in joined and (b"\\u" in joined or b"\\/" in joined):
            # Written otherwise than we would.
            return None
        if b"\\" in joined:
            sizes = [len(each.encode()) for each in written_texts(words)]
        else:
            sizes = [len(each) for each in words]
        said = sum(sizes)
        if said >= KEPT:
            return None
        if whole.running:
            self.counted = len(words)
        else:
            estimated = self.estimate(sizes)
            if estimated > self.limit:
                return None
            self.counted = estimated
        self.said = said
        self._written = words
        id, model = named(whole)
        stop, last = _end(whole)
        self.model = model
        self.finish_reason = stop.stop.finish_reason
        self._counts(last)
        writer = self._writer
        begin: list[Event] = [Began(id, model), TextDelta(written_texts(words[:1])[0])]
        if whole.running:
            begin.insert(1, Counted(Usage(fresh=whole.count.prompt, output=1), ahead=True))
        shown = [writer.write(begin), writer.more(words[1:]), writer.write([stop, last]), writer.finish()]
        self.done = True
        return b"".join(shown)


def _study(forms: Forms, data: bytes, *, running: bool) -> None:
    """Learn what a whole answer looks like, from one that says nothing beside what its form tells of it."""
    if not forms.due():
        return
    taught = Forms()
    try:
        ChatStream(show_usage=True, show_running=True, limit=_UNLIMITED, forms=taught).feed(data)
    except EngineError:
        return
    whole = taught.read(data, _UNLIMITED, True, True)
    if whole is None:
        return
    events = ChatReader(running=running).read(data)
    told = [each for each in events if not (isinstance(each, Counted) and each.ahead)]
    texts = [TextDelta(each) for each in written_texts(whole.texts)]
    # What stands in every such answer and is no word (a thought, a refusal) is in this one too.
    if told == [Began(*named(whole)), *texts, *_end(whole)]:
        forms.adopt(taught)


def _end(whole: Whole) -> tuple[Ended, Counted]:
    return Ended(*stopped(whole.finish_reason, whole.sequence)), Counted(disjoint(whole.count))
