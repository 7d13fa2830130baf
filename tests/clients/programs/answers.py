"""What every program here asks of its client, and how it says what came of it: one line of JSON on its standard output.

A program knows the gateway by its environment alone, as anybody's own code would.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

GATEWAY = os.environ["GATEWAY"]
MODEL = os.environ["MODEL"]
KEYS: dict[str, str] = json.loads(os.environ["KEYS"])
ASK = "[[tokens=12 delay=1ms]]"
ONE_TOOL = "[[tools=1]]"
BREAKS = "[[tokens=20 delay=1ms fault=reset at=5]]"
FAILS = "[[fail=500]]"
# Whose key, what is wrong with the call, and its words.
REFUSALS: dict[str, dict[str, Any]] = {
    "400": {"temperature": 9},
    "401": {"key": "gk_live_wrong"},
    "403": {"key": KEYS["stranger"]},
    "404": {"model": "gpt-99"},
    "429": {"key": KEYS["poor"]},
    "5xx": {"said": FAILS},
}


def raised(call: Callable[[], Any]) -> list[str]:
    """The classes of what a call raises, the nearest first, of what caused it as well; and the statuses that these name."""
    try:
        answer = call()
    except Exception as exc:
        found: list[str] = []
        cause: BaseException | None = exc
        while cause is not None:
            found += [each.__name__ for each in type(cause).__mro__[:-3]]
            found.append(str(getattr(cause, "status_code", None)))
            cause = cause.__cause__
        return found
    return ["nothing", repr(answer)[:200]]


def refusals(call: Callable[..., Any]) -> dict[str, list[str]]:
    """What `call(key, model, said, temperature)` raises for each of REFUSALS."""
    usual = {"key": KEYS["demo"], "model": MODEL, "said": ASK, "temperature": None}
    return {name: raised(lambda wrong=wrong: call(**{**usual, **wrong})) for name, wrong in REFUSALS.items()}


def tell(found: dict[str, Any]) -> None:
    """Say what was found, by kind of call."""
    print(json.dumps(found))
