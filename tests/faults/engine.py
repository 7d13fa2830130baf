"""A stand-in for vLLM's server that the product's own supervision starts: the oracle, tied to its parent as vLLM is.

    spec = stand_in(home, number)                # an EngineSpec like any other
    ...
    records = records_below(home)                # of every process that ran, killed ones included

Each process keeps a journal of its own, written before the bytes that it tells of, so that no kill takes a count along.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from engines.local.launch import EngineSpec
from engines.local.server import end_with_parent
from tests.faults import upstream
from tests.faults.journal import COMPLETE, OPEN, OracleRecord, read_journal
from tests.faults.script import DEFAULT

ROOT = Path(__file__).parents[2]


def stand_in(home: Path, number: int) -> EngineSpec:
    """An engine below `home` whose interpreter runs this file with the arguments that vLLM would get."""
    python = home / "stand-in-python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.faults.engine "$@"\n')
    python.chmod(0o755)
    return EngineSpec(
        python=python,
        socket=home / f"engine-{number}.sock",
        cache=home / "cache",
        log=home / "logs" / f"vllm-{number}.log",
    )


def records_below(home: Path) -> list[OracleRecord]:
    """Every call of every process, in order of time; one that was killed after its last byte has ended."""
    records = [record for path in home.glob("*.journal") for record in read_journal(path)]
    for record in records:
        # The kill came between the last byte and the word that it was the last.
        if record.ended == OPEN and record.emitted and record.emitted == _scripted(record):
            record.ended = COMPLETE
    return sorted(records, key=lambda record: record.started_at)


def _scripted(record: OracleRecord) -> int:
    """How many tokens its whole answer has."""
    found = re.search(r"\('tokens', (\d+)\)", record.script)
    return int(found[1]) if found else DEFAULT.tokens


def main() -> None:
    """Serve on the socket that is asked for."""
    end_with_parent()
    socket = sys.argv[sys.argv.index("--uds") + 1]
    sys.argv = [
        "engine",
        "--uds",
        socket,
        "--journal",
        f"{socket}.{os.getpid()}.journal",
        "--journal-at-once",
    ]
    upstream.main()


if __name__ == "__main__":
    main()
