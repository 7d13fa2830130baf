"""Which tests run in one process: a file's, since they share a deployment, and all that want the one engine.

pytest-xdist's own groups do not hold: it writes them into the ids of tests, which pytest does not read any more, and
deals every test out by itself, so that each process makes each file's deployment, and an engine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler.loadscope import LoadScopeScheduling


@cache
def wants_engine(path: Path) -> bool:
    """Whether a file of tests wants the real engine: by its mark, which is there before anything is collected."""
    return "pytest.mark.engine" in path.read_text()


class FilesTogether(LoadScopeScheduling):
    """Deals out whole files in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engine" if wants_engine(self.config.rootpath / file) else file
