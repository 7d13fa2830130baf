"""Reads large bodies in a thread of their own, one after the other, so that the event loop goes on meanwhile.

One thread a worker, since two would only fight over the interpreter; it gives way every few milliseconds, and single steps
that cannot (decoding 4 MiB of JSON) take some ten. How many bodies may wait for it is bounded by the calls that may run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from engines.http1.turns import Turns

LARGE = 128 << 10
"""Bytes from which on a body is read here; below, handing over costs more than the half millisecond that it saves."""
BODIES_A_TURN = 4
"""How many large bodies are read on in a turn of the loop: a piece is 250 KiB and takes 0.5 ms, and a hundred came at once."""
Given = TypeVarTuple("Given")
T = TypeVar("T")


class LargeBodies:
    """The thread, which is started with the first large body, and the loop's turns in which such bodies arrive."""

    def __init__(self) -> None:
        self._turns: Turns | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    async def turn(self) -> None:
        """Return when the next piece of a large body may be read."""
        if self._turns is None:
            self._turns = Turns(asyncio.get_running_loop(), BODIES_A_TURN)
        await self._turns.mine()

    async def read(self, work: Callable[[*Given], T], *given: *Given) -> T:
        """What `work` gives or raises. A call that is cancelled meanwhile leaves it to end for nobody."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)
