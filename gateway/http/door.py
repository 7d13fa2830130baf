"""Turns calls away at their connection: no request, task or exchange is made of them.

There may be several times as many of them as can be carried, and what each costs is taken from those who were let in: as a
request that the data plane refuses it cost a quarter of a call.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.http.errors import Dialect, rendered
from gateway.http.gate import LONGEST_RETRY_SECONDS, Gate, Headers, Overloaded
from gateway.http.plane import Api, DataPlane

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

    def __call__(self, target: bytes, headers: Headers) -> bytes | None:
        """Whoever is let in is read as ever."""
        dialect, plane = self._dialects.get(target), self._plane
        if dialect is None or not self.gate.turns_away(headers, plane.exchanges, len(plane.running)):
            return None
        answer = self._answers[dialect][self.gate.turned_away() - 1]
        return answer.replace(_PLACE.encode(), self._plane.new_id()[1].encode())


def _written(dialect: Dialect, seconds: int) -> bytes:
    status, headers, body = rendered(Overloaded(seconds), dialect, _PLACE)
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d Service Unavailable\r\n%b\r\n%b" % (status, head, body)
