"""Custom tools of Responses (`apply_patch` of a coding agent) as functions of one text, for providers that know functions only.

The model is asked for a JSON object with that text as its one member; the client gets the text alone, piece by piece as it comes.
A model that writes anything else is given to the client as it wrote: no word of it is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from engines.errors import Unsupported

MEMBER = "input"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {MEMBER: {"type": "string", "description": "The whole input of the tool, as plain text."}},
    "required": [MEMBER],
    "additionalProperties": False,
}
_OPENED = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MOST_HEAD = 256
"""So far into the arguments is looked for their one member; what comes later is read at the end."""
# Not a possessive group, as Python up to 3.11.4 does not give back what such a one took in vain; and so not without a bound.
_said_at = re.compile(
    r"""(?:[^"\\]++
      | \\[^u]
      | \\u(?![dD][89abAB])[0-9a-fA-F]{4}
      # The first half of a character that takes two waits for what follows it.
      | \\u[dD][89abAB][0-9a-fA-F]{2}(?=[^\\]|\\[^u]|\\u[0-9a-fA-F]{4})
    ){0,4096}""",
    re.VERBOSE,
).match
_CUT = 12
"""An escape is shorter, of two halves too."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def described(tool: Mapping[str, Any], where: str) -> str:
    """What the model is told of the tool, its grammar included, which nobody enforces; raises Unsupported.

    Nor could it be looked at afterwards: the text is the client's by then, and a client's expression may take a worker for ever.
    """
    if tool.get("strict"):
        raise Unsupported(
            f"{where}.strict", "this provider is told a custom tool's grammar and cannot be held to it"
        )
    description = tool.get("description")
    if description is not None and type(description) is not str:
        raise Unsupported(f"{where}.description", "it is a text")
    given = tool.get("format")
    if given is None:
        return description or ""
    wanted = cast("dict[str, Any]", given if type(given) is dict else {})
    match wanted:
        case {"type": "text"}:
            return description or ""
        case {"type": "grammar", "syntax": "lark" | "regex" as syntax, "definition": str(definition)}:
            kind = "Lark grammar" if syntax == "lark" else "regular expression"
            rule = f"'{MEMBER}' must match this {kind}:\n{definition}"
            return f"{description}\n\n{rule}" if description else rule
        case _:
            raise Unsupported(f"{where}.format", "it is text, or a grammar of syntax lark or regex")


def names(tools: Any) -> frozenset[str]:
    """The names of the custom tools among those that a request offers."""
    if type(tools) is not list:
        return frozenset()
    return frozenset(
        str(each["name"]) for each in cast("list[dict[str, Any]]", tools) if each.get("type") == "custom"
    )


def arguments_of(text: str) -> str:
    """The arguments of the function that a custom call is told as."""
    return _encode({MEMBER: text}).decode()


class InputReader:
    """The text of one call, out of its arguments in whatever pieces they come."""

    __slots__ = ("_ended", "_head", "_opened", "_rest", "_tried")

    def __init__(self) -> None:
        self._head: list[str] = []
        """Everything up to the member's value; all there is, where it was not found."""
        self._opened = False
        self._tried = 0
        self._rest = ""
        """What is no whole character yet."""
        self._ended = False

    def feed(self, piece: str) -> str:
        """What more of the text is known."""
        if self._opened:
            return self._read(piece)
        self._head.append(piece)
        if self._tried > _MOST_HEAD:
            return ""
        self._tried += len(piece)
        head = "".join(self._head)
        found = _OPENED.match(head)
        if found is None:
            return ""
        self._opened = True
        self._head.clear()
        return self._read(head[found.end() :])

    def end(self) -> str:
        """What is left of the text when nothing more comes."""
        if self._opened:
            # A character that was cut in the middle cannot be told.
            return self._rest if len(self._rest) >= _CUT else ""
        said = "".join(self._head)
        try:
            read = _decode(said)
        except msgspec.MsgspecError:
            return said
        text = read.get(MEMBER) if type(read) is dict else read
        return text if type(text) is str else said

    def _read(self, piece: str) -> str:
        if self._ended:
            return ""
        said = self._rest + piece
        end = 0
        while (found := _said_at(said, end)) is not None and found.end() > end:
            end = found.end()
        self._ended = said[end : end + 1] == '"'
        self._rest = "" if self._ended else said[end:]
        return _unescaped(said[:end])


def _unescaped(said: str) -> str:
    if "\\" not in said:
        return said
    try:
        text = json.loads(f'"{said}"', strict=False)
    except ValueError:
        # An escape that JSON does not know: as it was written.
        return said
    # Half a character that nothing follows is none that could be sent.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
