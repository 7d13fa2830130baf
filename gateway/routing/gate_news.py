"""What one worker tells the others of its gate, several times a second; counts are totals since it began.

Whoever hears two of them in a row knows what happened between; of a worker that is new only what comes from then on counts.
"""

from __future__ import annotations

import msgspec


class GateNews(msgspec.Struct, array_like=True):
    """What one worker says of its gate."""

    covered: int
    """Covered calls under way."""
    demand: int
    """Calls that have a lent slot or wait for one."""
    late: int
    """First tokens that missed their target, since the worker began."""
    timely: int
    used_ms: int
    """When a call with a target was last under way, by the clock that workers share; 0: never."""
    limit: float
    """On lending while calls with a target are under way; 0: it has none yet."""
    charged: dict[str, float]
    """Tokens charged to each provision since the worker began, less what came back."""
    pause_ms: float = 0.0
    """Between two calls with a target, usually; 0: it knows of none."""


SILENT = GateNews(0, 0, 0, 0, 0, 0.0, {})
"""Of a worker that nothing has passed through."""
