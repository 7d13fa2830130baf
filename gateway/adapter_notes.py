"""How the local engine's adapters stand, as a note that its supervisor leaves for the workers of the same home.

Written whole or not at all. An adapter that is loading has no reason yet; one that failed has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from engines.local.adapter_keeper import Standing

NOTE = "adapters.json"
FOLDER = "adapters"
"""Below the home: one folder an adapter, uploaded or mounted."""


def write_standings(run_dir: Path, standings: Mapping[str, Standing]) -> None:
    """Leave the note."""
    run_dir.mkdir(parents=True, exist_ok=True)
    fresh = run_dir / f"{NOTE}.new"
    fresh.write_bytes(msgspec.json.encode(standings))
    fresh.replace(run_dir / NOTE)


def read_standings(run_dir: Path) -> dict[str, Standing]:
    """The note as it was last left; empty where there is none that can be read."""
    try:
        return msgspec.json.decode((run_dir / NOTE).read_bytes(), type=dict[str, Standing])
    except (OSError, msgspec.MsgspecError):
        return {}
