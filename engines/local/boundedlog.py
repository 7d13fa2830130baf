"""Keep a child's output in a file that cannot grow without end, and its last lines at hand.

At most two files of `limit` bytes each are kept; the last lines explain a start that failed.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

LIMIT = 4 << 20
LAST_LINES = 60


class BoundedLog:
    """Append lines to one file and turn it over to `<name>.1` at its limit."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        path.chmod(0o600)

    def write(self, line: bytes) -> None:
        """Append one line; a disk that is full loses the line, never the child."""
        self._last.append(line.decode(errors="replace").rstrip())
        try:
            if self._file.tell() + len(line) > self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab")
                self._path.chmod(0o600)
            self._file.write(line)
            self._file.flush()
        except OSError:
            return

    def reason(self) -> str:
        """Return the line that best explains a failure: the last that names an error, else the last."""
        lines = [line for line in self._last if line.strip()]
        named = [line for line in lines if "Error" in line or "error:" in line]
        return (named or lines or ["it wrote nothing"])[-1].strip()[-300:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
