"""Bytes of an OpenAI event stream in, bytes for the client out: sans-I/O, frames pass through untouched.

Each event is validated and its end and usage are read; `usage` is cut out for clients that did not ask for it, as
the engine is always asked. Output stops before the frame that would pass `limit` tokens: `exhausted` turns true and
the rest waits until the limit is raised. A frame that is no JSON, or over 8 MiB, raises Garbled.
"""

from __future__ import annotations

import msgspec

from engines.answer_json import decoded
from engines.errors import EngineError, Garbled
from engines.forms import Forms, without_usage
from engines.likeness import Likeness, Run
from engines.messages import NO_ERROR, Answer, Choice, Count, believed, decode_answer
from engines.pieces import KEPT, Pieces, digits, texts_of
from engines.told import chat_count, told_count
from engines.whole import Whole

MAX_EVENT = 8 << 20
_DONE = b"[DONE]"
DONE = b"data: [DONE]\n\n"
_END = b"\n\n"
_BETWEEN = b',"completion_tokens":'
_LESSONS = 8
"""How many decoded events are learnt from: a stream whose events are never alike must not pay for each."""


class ErrorEvent(EngineError):
    """The upstream said in its stream that it failed."""

    code = "upstream_error_event"


class ChatStream(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """The state of one stream; chat and text completions alike."""

    show_usage: bool
    """The client asked for the closing usage event."""
    show_running: bool
    """The client asked for usage in every event."""
    limit: int
    """Output tokens that may be passed on."""
    forms: Forms | None = None
    """Those of earlier answers of the same upstream, until the first piece was read."""
    counted: int = 0
    """Events with content passed on: the count where the upstream gives none."""
    received: int = 0
    """Bytes that arrived."""
    running: int = 0
    """Output tokens so far, by whichever count there is."""
    finish_reason: str | None = None
    model: str | None = None
    done: bool = False
    """[DONE] was read."""
    exhausted: bool = False
    distrusted: bool = False
    """The upstream sent a usage that cannot be (negative, absurd)."""
    steady: bool = False
    """The last two feeds moved nothing but `running`."""
    _quick: bool = False
    """The last feed was one event like the one before."""
    _count: Count | None = None
    _bare: int = 0
    _buffer: bytes = b""
    _kept: list[bytes] = []
    """The beginning of what arrived, up to KEPT bytes and the read that goes beyond."""
    _sample: bytes = b""
    _untold: bytes = b""
    """The last event with a count and more than that, where the client is to have the count in one of its own."""
    _each: dict[int, int] = {}
    _likeness: Likeness | None = None
    _lessons: int = _LESSONS
    _around: int = 0
    _last: bytes = DONE

    @property
    def estimates(self) -> bool:
        """Deltas are counted, each of which is a token at least."""
        return False

    @property
    def count(self) -> Count | None:
        """The upstream's own count, the last believable one."""
        likeness = self._likeness
        if self._quick and likeness is not None and likeness.count is not None:
            return _moved(likeness.count, self.running)
        return self._count

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        if self.received < KEPT:
            self._kept.append(data)
        self.received += len(data)
        likeness = self._likeness
        if likeness is not None and not self._buffer and not self.done:
            # One whole event like the last, as a paced stream brings them: nothing to cut, nothing else to note.
            running = self.running
            shown = likeness.next(data, running) if running < self.limit else None
            if shown is not None:
                self.running = running + 1
                self.counted += 1
                self.steady = self._quick
                self._quick = True
                return shown
        elif self.forms is not None:
            return self._first(self.forms, data)
        return self._read(data)

    def _first(self, forms: Forms, data: bytes) -> bytes:
        """The first piece of all: often it is the whole answer."""
        self.forms = None
        whole = forms.read(data, self.limit, self.show_usage, self.show_running)
        if whole is None:
            shown = self._read(data)
            likeness, count = self._likeness, self.count
            if self.done and likeness is not None and count is not None and forms.due():
                came_to = Whole(
                    shown + DONE, self.counted, count, self.finish_reason, self.model, likeness.around
                )
                forms.learn(data, came_to, self.show_usage, self.show_running)
            return shown
        self.done = True
        self.running = whole.count.completion
        self.counted = whole.words
        self.finish_reason = whole.finish_reason
        self.model = whole.model
        self._count = whole.count
        self._around = whole.around
        self._last = b""
        return whole.shown

    def _read(self, data: bytes) -> bytes:
        """Read event by event, but for those that are alike and come together."""
        self._count = self.count
        self.steady = self._quick = False
        # What waited for the rest of an event was looked through; what waited for the limit was not.
        look = 0 if self.exhausted else len(self._buffer) - 2
        if b"\r" in data or self._buffer[-1:] == b"\r":
            data = self._unified(data)
        elif self._buffer:
            data = self._buffer + data
        out: list[bytes] = []
        self.exhausted = apart = False
        at = 0
        while not self.done:
            end = data.find(_END, max(at, look))
            if end < 0:
                break
            if self._likeness is not None and not apart:
                apart = True
                found = self._together(self._likeness, data, at)
                if found is not None:
                    at = found.end
                    out.append(found.shown)
                    continue
            frame = data[at : end + 2]
            shown = self._alike(frame)
            if shown is None:
                shown = self._event(frame[:-2])
            if self.exhausted:
                break
            at = end + 2
            if shown:
                out.append(shown)
        self._buffer = data[at:]
        if len(self._buffer) > MAX_EVENT:
            raise Garbled("an event is over 8 MiB")
        return out[0] if len(out) == 1 else b"".join(out)

    @property
    def said(self) -> int:
        """At most so many bytes of words were in what arrived: what frames have around them is taken off."""
        likeness = self._likeness
        around = self._around if likeness is None else likeness.around
        return self.received - self.counted * around

    def pieces(self) -> Pieces | None:
        """The words as they came, of one choice that has nothing else."""
        kept = b"".join(self._kept)
        texts = texts_of(kept)
        if not texts or self._each:
            return None
        if len(kept) == self.received:
            return Pieces(texts)
        # By their number and by their bytes: later ones may be longer, where more comes at a time.
        words, all_words = sum(len(each.encode()) for each in texts), self.said - self._beside()
        return Pieces(texts, min(1.0, len(texts) / max(1, self.counted), words / max(1, all_words)))

    def _beside(self) -> int:
        """Bytes of events that have no words, and of blank lines and counts in those that have."""
        likeness, count = self._likeness, self.count
        beside = self._bare + self.counted * len(_END)
        if likeness is None or likeness.count is None or count is None or not count.completion:
            return beside
        counts = digits(count.completion) + digits(count.prompt + count.completion) - digits(count.prompt)
        return beside + (self.counted * counts // count.completion) + self.counted * len(_BETWEEN)

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless [DONE] was read (a last event may lack its blank line)."""
        if not self.done and self._buffer.strip():
            # A CR that waits for what follows it is a line's end too.
            rest, self._buffer = self._buffer.replace(b"\r", b"\n").strip(b"\n"), b""
            if _canonical(rest.split(b"\n")) == b"data: " + _DONE:
                self.done = True
                if self._untold:
                    self._last = self._usage_event() + DONE
        if not self.done:
            raise Garbled("the stream ended without [DONE]")

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream: `finish_reason: length`, then usage if asked."""
        sample = decoded(msgspec.json.decode, self._sample) if self._sample else {}
        base = {name: sample[name] for name in ("id", "object", "created", "model") if name in sample}
        end: dict[str, object] = {"index": 0, "finish_reason": "length"}
        if base.get("object") == "text_completion":
            end["text"] = ""
        else:
            end["delta"] = {}
        last = {**base, "choices": [end], **extra}
        events = b"data: " + msgspec.json.encode(last) + b"\n\n"
        if self.show_usage:
            count = self.count or Count(completion=self.counted)
            usage = {
                "prompt_tokens": count.prompt,
                "completion_tokens": count.completion,
                "total_tokens": count.prompt + count.completion,
            }
            events += b"data: " + msgspec.json.encode({**base, "choices": [], "usage": usage}) + b"\n\n"
        return events

    def terminal(self) -> bytes:
        """[DONE], whether the upstream's own was read or the gateway ends the stream; b"" where it was passed on."""
        return self._last

    def failed(self, code: str, message: str) -> bytes:
        """An error's own frame ends it."""
        return b""

    def _unified(self, data: bytes) -> bytes:
        """Line ends as LF; a CR at the very end waits for what follows it."""
        data = self._buffer + data
        held = b"\r" if data.endswith(b"\r") else b""
        if held:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held

    def _together(self, likeness: Likeness, data: bytes, at: int) -> Run | None:
        """All events from `at` that are like the last one; None where they differ, or would pass the limit."""
        found = likeness.run(data, at)
        if found is None:
            return None
        running = found.running
        if likeness.count is None:
            running += self.running
            if running > self.limit:
                return None
        elif found.most > self.limit:
            return None
        else:
            self._count = _moved(likeness.count, running)
        self.running = running
        self.counted += found.number
        return found

    def _alike(self, frame: bytes) -> bytes | None:
        """What the client gets of an event like the last one; None where it must be decoded."""
        likeness, running = self._likeness, self.running + 1
        if likeness is None or running > self.limit:
            return None
        shown = likeness.next(frame, self.running)
        if shown is not None:
            self.running = running
            self.counted += 1
            if likeness.count is not None:
                self._count = _moved(likeness.count, running)
        return shown

    def _event(self, event: bytes) -> bytes:
        """One event: what the client gets of it, b"" for nothing."""
        if b"\n" in event or not event.startswith(b"data: "):
            event = _canonical(event.split(b"\n"))
        payload = event[6:]
        if not payload:
            return b""
        if payload == _DONE:
            self.done = True
            return self._usage_event() if self._untold else b""
        try:
            if not payload.isascii():
                payload.decode()
            answer = decode_answer(payload)
        except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
            answer = decoded(decode_answer, payload)
        if answer.error is not NO_ERROR and answer.failed:
            failure = ErrorEvent("the upstream reported an error in its stream")
            failure.count = told_count(chat_count, payload)
            raise failure
        shown = self._passed(payload, answer)
        if self._each:
            self._likeness = None
        elif self._lessons and not self.exhausted:
            self._lessons -= 1
            self._likeness = Likeness.of(event, answer, whole=self.show_running) or self._likeness
        return shown

    def _passed(self, payload: bytes, answer: Answer) -> bytes:
        choices, usage = answer.choices, answer.usage
        count = None if usage is None else believed(usage)
        content = 0
        for choice in choices:
            if choice.has_content():
                content += 1
        if count is None:
            running = self.running + content
        elif not choices or (choices[0].index == 0 and not self._each):
            running = count.completion
        else:
            running = self._of_each(count, choices)
        if running > self.limit and choices:
            self.exhausted = True
            return b""
        if count is not None:
            self._count = (
                count if running == count.completion else msgspec.structs.replace(count, completion=running)
            )
        elif usage is not None and usage.is_told:
            self.distrusted = True
        self.running = running
        self.counted += content
        if not content:
            self._bare += len(payload) + 8
        for choice in choices:
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
        if choices and not self._sample:
            self._sample = payload
            self.model = answer.model
        if usage is not None:
            if not choices:
                self._untold = b""
                return b"data: %b\n\n" % payload if self.show_usage else b""
            if not self.show_running:
                if self.show_usage:
                    self._untold = payload
                payload = without_usage(payload)
        return b"data: %b\n\n" % payload

    def _usage_event(self) -> bytes:
        """The count that came with other things, in an event of its own: providers differ, and clients look there."""
        told = decoded(msgspec.json.decode, self._untold)
        told["choices"] = []
        return b"data: %b\n\n" % msgspec.json.encode(told)

    def _of_each(self, count: Count, choices: list[Choice]) -> int:
        """Output tokens of all choices with this event: a running count is each choice's own."""
        self._each[0] = self._each.get(0, self.running)
        for choice in choices:
            self._each[choice.index] = count.completion
        return sum(self._each.values())


def _canonical(lines: list[bytes]) -> bytes:
    """An event written with other fields, comments or several data lines, as one line of data (the SSE rules)."""
    return b"data: " + b"\n".join(
        [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    )


def _moved(count: Count, completion: int) -> Count:
    """The same with another number of output tokens."""
    return Count(count.prompt, completion, count.cached, 0, count.cache_write)
