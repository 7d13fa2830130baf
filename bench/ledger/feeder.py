"""`python -m bench.ledger.feeder SPOOLS RATE SECONDS`: a worker that settles so many requests a second, on its own spool.

It prints how many it appended, so that none can go missing unseen.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.ledger.population import population
from bench.ledger.traffic import Traffic
from gateway.spool.writer import SpoolWriter

_TURN_SECONDS = 0.02


def main(spools: Path, rate: int, seconds: float) -> None:
    """Append at an even pace; what is late is made up for."""
    traffic = Traffic(population(), seed=time.time_ns())
    appended = 0
    with SpoolWriter(spools) as spool:
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            while appended < gone * rate:
                for record in traffic.records(time.time_ns() // 1_000_000):
                    spool.append(record)
                appended += 1
            time.sleep(_TURN_SECONDS)
    print(appended)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
