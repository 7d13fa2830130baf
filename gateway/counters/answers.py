"""Answers that are given again, in Redis: sealed, each with its end, together below a cap, and soft in every way.

What cannot be reached in time, or opened, was never there. Nobody's call waits for an answer to be stored, and no
connection is made before the first endpoint asks for one. Redis sees neither who asked nor what was asked or answered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import hiredis
import msgspec

from gateway.counters.address import RedisAddress
from gateway.counters.connection import Connection, RedisAway
from gateway.counters.lua import Script, command
from gateway.pipeline.ports import Stored
from gateway.security.sealing import SealError, Sealing
from policies.caching import LONGEST_SECONDS

TIMEOUT_SECONDS = 0.05
"""What takes longer is asked of the model."""
REST_SECONDS = 1.0
"""How long a Redis that was too slow is left alone, so that not every call waits for it."""
_LONGEST_MS = b"%d" % (LONGEST_SECONDS * 1000)
log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stored).decode


class StoredAnswers:
    """The port `Answers`, on a connection of its own: a large answer holds up nobody's admission."""

    def __init__(
        self,
        redis_url: str,
        sealing: Sealing,
        secret: bytes,
        *,
        cap_bytes: int,
        monotonic: Callable[[], float],
        timeout_seconds: float = TIMEOUT_SECONDS,
        deployment: str = "wb",
    ) -> None:
        """`secret` makes the names, so that nobody who reads them can try questions on them."""
        self._address = RedisAddress.parse(redis_url)
        self._sealing = sealing
        self._secret = secret
        self._cap = b"%d" % cap_bytes
        self._monotonic = monotonic
        self._timeout = timeout_seconds
        self._prefix = f"{{{deployment}}}:answer"
        self._script = Script.named("answers")
        self._connection: Connection | None = None
        self._rests_until = 0.0

    @property
    def connected(self) -> bool:
        """Whether answers can be found and stored now."""
        connection = self._connection
        return connection is not None and connection.ready and self._monotonic() >= self._rests_until

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            await self._connection.stop()

    async def find(self, question: bytes) -> Stored | None:
        """The answer to it, where one is stored and can be had at once."""
        connection = self._usable()
        if connection is None:
            return None
        name = self._name(question)
        try:
            sealed = await connection.ask(command(b"GET", name.encode()))
        except (RedisAway, hiredis.ReplyError) as error:
            self._rest(error)
            return None
        if sealed is None:
            return None
        try:
            return _decode(self._sealing.open(sealed, name))
        except (SealError, msgspec.MsgspecError) as error:
            log.warning("a stored answer cannot be used: %s", error)
            return None

    def keep(self, question: bytes, answer: Stored, seconds: int) -> None:
        """Store it for so long; returns at once."""
        connection = self._usable()
        if connection is None:
            return
        name = self._name(question)
        sealed = self._sealing.seal(_encode(answer), name)
        keys = [each.encode() for each in (name, f"{self._prefix}s", f"{self._prefix}s:sizes")]
        call = self._script.call(keys, [sealed, b"%d" % (seconds * 1000), self._cap, _LONGEST_MS])
        connection.send(call, _Keeping(self, call))

    def resend(self, call: bytes) -> None:
        """Store it by the script's text: the server forgot the script."""
        connection = self._usable()
        if connection is not None:
            connection.send(self._script.spelled_out(call), _Keeping(self, None))

    def _usable(self) -> Connection | None:
        connection = self._connection
        if connection is None:
            connection = self._connection = Connection(
                self._address,
                (self._script,),
                timeout_seconds=self._timeout,
                on_ready=lambda _: None,
                on_lost=lambda: None,
            )
            connection.start()
        return connection if self.connected else None

    def _name(self, question: bytes) -> str:
        return f"{self._prefix}:{hashlib.blake2b(question, key=self._secret, digest_size=32).hexdigest()}"

    def _rest(self, error: object) -> None:
        now = self._monotonic()
        if now >= self._rests_until:
            log.warning("stored answers are left alone for a moment: %s", error)
        self._rests_until = now + REST_SECONDS


class _Keeping:
    """The port `Asked`: an answer on its way; nobody waits for it."""

    __slots__ = ("_answers", "_call")

    def __init__(self, answers: StoredAnswers, call: bytes | None) -> None:
        self._answers = answers
        self._call = call

    def answered(self, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if self._call is not None and str(reply).startswith("NOSCRIPT"):
                self._answers.resend(self._call)
            else:
                log.warning("an answer was not stored: %s", reply)

    def failed(self) -> None:
        """It may be stored or not; either will do."""

    def late(self, reply: object) -> None:
        """It was."""
