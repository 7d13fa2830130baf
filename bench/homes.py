"""A folder for the stores and logs of one run, gone with it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def home_of() -> Generator[Path]:
    """A fresh folder that the stores' own user can enter too."""
    home = Path(tempfile.mkdtemp(prefix="wb-bench-"))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
