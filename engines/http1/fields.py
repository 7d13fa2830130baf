"""The header fields of an answer, decoded when somebody asks for one: of a plain answer that is well, nobody does.

Decoding the three fields of a small answer was 12 of a plain call's 255 calls of C functions; providers send twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


class Fields(Mapping[str, str]):
    """Names in lower case, the first value of each."""

    __slots__ = ("_raw", "_read")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._read: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._decoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())

    def _decoded(self) -> dict[str, str]:
        if self._read is None:
            self._read = {}
            for name, value in self._raw:
                self._read.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        return self._read


NO_FIELDS = Fields(())
