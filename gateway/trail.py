"""The trail of refusals: a metric for each, and a line in the log for the first few a second of each kind.

Bounded whatever callers do: ten lines a second for one principal and code, the rest as one count when the second is
over; a refusal of nobody known is only counted. Never a credential, a header or a body.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.telemetry import Telemetry

LINES_A_SECOND = 10
_KINDS_AT_MOST = 4096

log = logging.getLogger("weighbridge.refusals")


class RefusalTrail:
    """The line's Trail."""

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._second = 0
        self._seen: dict[tuple[str, str], int] = {}

    def refused(self, principal_id: str | None, model: str | None, code: str) -> None:
        """A request was refused before admission."""
        self._telemetry.refused(code)
        second = int(self._clock())
        if second != self._second:
            self._close(second)
        if principal_id is None:
            return
        kind = principal_id, code
        seen = self._seen.get(kind, 0)
        if seen or len(self._seen) < _KINDS_AT_MOST:
            self._seen[kind] = seen + 1
        if seen < LINES_A_SECOND:
            log.info("refused principal=%s model=%.64r code=%s", principal_id, model, code)

    def _close(self, second: int) -> None:
        for (principal_id, code), seen in self._seen.items():
            if seen > LINES_A_SECOND:
                log.info(
                    "refused principal=%s code=%s and %d more", principal_id, code, seen - LINES_A_SECOND
                )
        self._seen.clear()
        self._second = second
