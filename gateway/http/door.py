"""Turns calls away at their connection: no request, task or exchange is made of them.

There may be several times as many of them as can be carried, and what each costs is taken from those who were let in: as a
request that the data plane refuses it cost a quarter of a call. Who floods sends the same head again and again: one that came
before, byte for byte, is not parsed again while the flood lasts.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.http.errors import Dialect, rendered
from gateway.http.gate import LONGEST_RETRY_SECONDS, Gate, Headers, Overloaded
from gateway.http.plane import Api, DataPlane

_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_MOST_HEADS = 2_048
_LONGEST_HEAD = 2_048
_PLACE = "00000000-0000-0000-0000-000000000000"
"""Stands for the request's id in an answer that is written beforehand."""


class Door:
    """Called with the head of a POST while its gate is guarded; the whole answer for a call that is not to be begun, or None."""

    def __init__(self, gate: Gate, plane: DataPlane, calls: Mapping[str, Api]) -> None:
        self.gate = gate
        self.waits = gate.waits
        self._plane = plane
        self._dialects = {path.encode(): api.dialect for path, api in calls.items()}
        self._answers = {
            dialect: [_written(dialect, seconds + 1) for seconds in range(LONGEST_RETRY_SECONDS)]
            for dialect in Dialect
        }
        self._heads: dict[bytes, tuple[Dialect, Headers, int]] = {}
        """Of calls that were turned away: what their parser made of them, and how long the message was."""
        gate.calmed = self._heads.clear

    def __call__(self, target: bytes, headers: Headers) -> bytes | None:
        """Whoever is let in is read as ever."""
        dialect, plane = self._dialects.get(target), self._plane
        if dialect is None or not self.gate.turns_away(headers, plane.exchanges, len(plane.running)):
            return None
        return self._answer(dialect)

    def remember(self, message: bytes, target: bytes, headers: Headers, body: int) -> None:
        """`message` was turned away and asks for no end of its connection; nothing else came with it if head and body are all of it."""
        end = message.find(b"\r\n\r\n") + 4
        dialect = self._dialects.get(target)
        if dialect is None or end > _LONGEST_HEAD or len(message) != end + body:
            return
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        told = [each for each in headers if each[0] in _CREDENTIALS]
        self._heads[message[:end]] = dialect, told, len(message)

    def again(self, message: bytes) -> bytes | None:
        """The same answer for a whole message whose head came before; None where it is to be read."""
        known = self._heads.get(message[: message.find(b"\r\n\r\n") + 4])
        if known is None or len(message) != known[2]:
            return None
        plane = self._plane
        if not self.gate.would_turn_away(known[1], plane.exchanges, len(plane.running)):
            return None
        return self._answer(known[0])

    def _answer(self, dialect: Dialect) -> bytes:
        answer = self._answers[dialect][self.gate.turned_away() - 1]
        return answer.replace(_PLACE.encode(), self._plane.new_id()[1].encode())


def _written(dialect: Dialect, seconds: int) -> bytes:
    status, headers, body = rendered(Overloaded(seconds), dialect, _PLACE)
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d Service Unavailable\r\n%b\r\n%b" % (status, head, body)
