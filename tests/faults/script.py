"""What the scriptable upstream should do with one request, and where that is read from.

A script that cannot be understood raises: a fault that silently does not happen would prove nothing.

Three places, the first that speaks wins: the programmed queue, the last user message
(`[[tokens=64 delay=5ms fault=stall at=3]]`), the model name (`mixtral-demo@tokens=64,delay=5ms`).
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Final, Literal, get_args

Fault = Literal[
    "",
    "stall",  # stop sending at `at`, keep the socket open (for `stall_for` seconds, 0 = for ever)
    "reset",  # RST at `at`
    "close",  # FIN at `at`, the chunked body left unfinished
    "no_done",  # a well-formed end of the body at `at`, without [DONE]
    "error_event",  # an error event as vLLM sends it, then [DONE]
    "bad_utf8",  # one event whose text is no UTF-8, then the rest
    "bad_json",  # one event that is no JSON, then the rest
    "huge",  # one event of `huge_bytes`, then the rest
    "bad_chunk",  # a chunk size that is no number
    "endless_headers",  # a header block that never ends
    "comments_only",  # comments at the pace of tokens, and nothing else
]
Usage = Literal[
    "true", "missing", "null", "zero", "negative", "absurd", "disagree", "few", "many",
    "text",  # whole numbers as texts
    "wrong",  # of no kind of number
]  # fmt: skip
Lines = Literal["lf", "crlf", "cr", "mixed"]
Finish = Literal["", "stop", "length", "content_filter"]

START: Final = -1  # `at=start`: not one byte of the answer was sent
HEADERS: Final = 0  # `at=headers`: the status line and the headers were sent


class BadScript(ValueError):
    """A script names something this upstream cannot do."""


@dataclass(frozen=True, slots=True)
class Script:
    """One request's behaviour. `at` counts tokens sent (START and HEADERS come before the first)."""

    tokens: int = 16  # per choice; cut by max_tokens, which then gives finish_reason length
    first: float = 0.0  # seconds to the first token
    delay: float = 0.0  # seconds between tokens
    fail: int = 0  # an HTTP status instead of an answer
    retry_after: str = ""
    body: str = ""  # the body of `fail`; default: an error as vLLM writes it
    spent: int = (
        -1
    )  # tokens that `fail` and `error_event` generate and tell of in a usage beside the error; -1: no usage
    fault: Fault = ""
    at: int = 1
    times: int = 0  # fail and fault hit only the first `times` attempts with one key; 0 = every attempt
    key: str = ""  # what counts as the same call for `times`; default: x-request-id, else the script
    stall_for: float = 0.0
    huge_bytes: int = 20 * 2**20
    usage: Usage = "true"
    cached: int = -1  # prompt_tokens_details.cached_tokens; -1 = vLLM's default, no details
    reasoning: int = -1  # completion_tokens_details.reasoning_tokens; -1 = none
    lines: Lines = "lf"
    slice: int = 0  # bytes of the event stream in one HTTP chunk; 0 = one event
    gap: float = 0.0  # seconds between the slices of one event; 0 = they are written together
    comments: bool = False  # a keep-alive comment before every event
    text: str = ""  # the words to answer with, instead of w1 w2 w3
    json: str = ""  # a JSON text to answer with
    tools: int = 0  # tool calls to make
    eos: bool = False  # the last token has no text, as an end-of-sequence token has none
    finish: Finish = ""
    ignore_close: bool = False  # goes on, and bills on, after the peer has gone
    source: str = field(default="", compare=False)

    @property
    def clean(self) -> Script:
        """The same answer without its faults."""
        return replace(self, fail=0, fault="", times=0, source=self.source + " #clean")


DEFAULT: Final = Script(source="default")
_FIELDS: Final = {f.name: f for f in fields(Script) if f.name != "source"}
_CHOICES: Final = {
    "fault": set(get_args(Fault)),
    "usage": set(get_args(Usage)),
    "lines": set(get_args(Lines)),
    "finish": set(get_args(Finish)),
}
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|)\Z")
_IN_TEXT: Final = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


def _seconds(value: str) -> float:
    match = _DURATION.match(value)
    if match is None:
        raise BadScript(f"{value!r} is no duration; write 5ms, 0.5s or 2")
    return float(match[1]) * _UNITS[match[2]]


def _value(name: str, raw: Any) -> Any:
    if name not in _FIELDS:
        raise BadScript(f"unknown word {name!r} in a script; known: {', '.join(sorted(_FIELDS))}")
    default = _FIELDS[name].default
    if name == "at" and isinstance(raw, str):
        raw = {"start": START, "headers": HEADERS}.get(raw, raw)
    if name in _CHOICES:
        if raw not in _CHOICES[name]:
            raise BadScript(f"{name}={raw!r}; known: {', '.join(sorted(_CHOICES[name]))}")
        return raw
    if isinstance(default, bool):
        return raw in (True, "1", "true", "yes")
    if isinstance(default, float):
        return _seconds(raw) if isinstance(raw, str) else float(raw)
    try:
        return type(default)(raw)
    except ValueError as error:
        raise BadScript(f"{name}={raw!r} is no {type(default).__name__}") from error


def script_of(values: dict[str, Any]) -> Script:
    """A script from a mapping, as `POST /oracle/script` takes it."""
    parsed = {name: _value(name, raw) for name, raw in values.items()}
    return Script(**parsed, source=repr(sorted(parsed.items())))


@lru_cache(maxsize=4096)
def parse_script(text: str, separator: str = " ") -> Script:
    """A script from `tokens=64 delay=5ms`; a word alone is a switch, quotes hold spaces together."""
    words = shlex.split(text) if separator == " " else text.split(separator)
    pairs = (word.partition("=") for word in words if word)
    return script_of({name: value if equals else "1" for name, equals, value in pairs})


def script_in_text(text: str) -> Script | None:
    """The script in double brackets in a message, or None."""
    if "[[" not in text:
        return None
    match = _IN_TEXT.search(text)
    return parse_script(match[1].strip()) if match else None


def script_in_model(model: str) -> Script | None:
    """The script after the `@` of a model name, or None."""
    _, at, suffix = model.partition("@")
    return parse_script(suffix, ",") if at else None


class Scripts:
    """Chooses the script of each request and counts attempts for `times`."""

    def __init__(self, default: Script = DEFAULT) -> None:
        self.default = default
        self.queue: deque[Script] = deque()
        self._attempts: dict[str, int] = {}

    def program(self, *scripts: Script) -> None:
        """Queue scripts: each serves one request, in order of arrival, before anything else is asked."""
        self.queue.extend(scripts)

    def choose(self, model: str, last_user_text: str, request_id: str | None) -> Script:
        """The script for one request, without its faults once they have hit as often as `times` says."""
        if self.queue:
            script = self.queue.popleft()
        else:
            script = script_in_text(last_user_text) or script_in_model(model) or self.default
        if script.times == 0:
            return script
        key = script.key or request_id or script.source
        self._attempts[key] = count = self._attempts.get(key, 0) + 1
        return script if count <= script.times else script.clean
