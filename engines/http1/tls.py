"""TLS of our own client: what takes long of it happens in two threads, the rest in the loop between others' turns.

Handshakes (0.9 ms each, with the trusted certificates' loading 50 ms more) and records of more than INLINE bytes go there.
A thread has OpenSSL's objects to itself: what arrives meanwhile is held, one read of it, and the socket is not read.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from asyncio import AbstractEventLoop, Future
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar, cast

A = TypeVar("A", bound=asyncio.BufferedProtocol)
INLINE = 1 << 16
"""Bytes that are encrypted where they are: 31 us, what handing them to a thread costs the loop."""
THREADS = 2
_PARTING_SECONDS = 1.0
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tls")
"""Who waits for one is bounded by the calls that may run; a handshake's wait is within its time to connect."""
_contexts: dict[tuple[str | None, str | None], ssl.SSLContext] = {}
_lock = threading.Lock()


def trusted() -> ssl.SSLContext:
    """The context of all connections, made once: loading the system's certificates takes 50 ms and their memory."""
    where = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    with _lock:
        context = _contexts.get(where)
        if context is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            _contexts[where] = context
        return context


class _Cipher:
    """OpenSSL's side of one connection: whoever is in one of these methods must be the only one."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "end")

    def __init__(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject
        self.end: ssl.SSLError | None = None
        """Why nothing more can be read: the other side's farewell is an SSLZeroReturnError."""

    def begin(self, name: str) -> bytes:
        """The first words of a handshake with `name`."""
        self._tls = trusted().wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        return self.go_on(b"")[1]

    def go_on(self, data: bytes) -> tuple[bool, bytes]:
        """(Whether the handshake is done with what has come, what is to be sent); raises SSLError."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        return done, self._outgoing.read()

    def seal(self, data: bytes | memoryview) -> bytes:
        """What is to be sent instead of `data`."""
        if len(data) <= INLINE:
            self._tls.write(data)
            return self._outgoing.read()
        # As much as goes through at once, a connection keeps of memory for as long as it lives.
        parts: list[bytes] = []
        for start in range(0, len(data), INLINE):
            self._tls.write(data[start : start + INLINE])
            parts.append(self._outgoing.read())
        return b"".join(parts)

    def take(self, data: bytes | memoryview) -> None:
        """What has come from the other side."""
        self._incoming.write(data)

    @property
    def waits(self) -> bool:
        """Whether anything that has come is still to be opened."""
        return self.end is None and bool(self._incoming.pending or self._tls.pending())

    def open(self, into: memoryview) -> int:
        """Decrypt what has come, as far as there is room; says how much that is."""
        size = 0
        try:
            while size < len(into) and self.waits:
                read = cast("int", self._tls.read(len(into) - size, into[size:]))
                if not read:
                    self.end = ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "closed")
                    self._tls.unwrap()
                size += read
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self.end = self.end or exc
        return size

    def words(self) -> bytes:
        """What TLS itself has to say: answers to new keys, alerts, our own farewell."""
        return self._outgoing.read() if self._outgoing.pending else b""


class Tls(asyncio.BufferedProtocol, Generic[A]):
    """Between a socket and an application: a protocol to the one, a transport to the other.

    The application writes nothing between `pause_writing` and `resume_writing`, and reads into the same buffer.
    """

    __slots__ = (
        "_application",
        "_buffer",
        "_busy",
        "_cipher",
        "_closed",
        "_deaf",
        "_full",
        "_held",
        "_loop",
        "_lost",
        "_shaken",
        "_transport",
        "_waiter",
    )

    def __init__(self, loop: AbstractEventLoop, buffer: memoryview, application: A) -> None:
        self._loop = loop
        self._buffer = buffer
        self._application = application
        self._cipher = _Cipher()
        self._transport: asyncio.Transport
        self._held = b""
        """What came while a thread had the cipher."""
        self._lost: Exception | None = None
        """Why the socket is gone."""
        self._waiter: Future[None] | None = None
        self._shaken = self._busy = self._deaf = self._full = self._closed = False

    async def shake_hands(self, name: str) -> A:
        """Have the other side prove that it is `name`, and hand the connection to the application; raises OSError.

        Whatever interrupts it ends the connection; a step that a thread is at ends for nobody.
        """
        cipher, application = self._cipher, self._application
        try:
            self._send(await self._loop.run_in_executor(_threads, cipher.begin, name))
            done = False
            while not done:
                data = await self._more()
                done, answer = await self._loop.run_in_executor(_threads, cipher.go_on, data)
                self._send(answer)
        except BaseException as exc:
            if isinstance(exc, ssl.SSLError):
                self._send(cipher.words())  # the alert that says why
                self._leave()
            else:
                self.abort()
            raise
        self._shaken = True
        application.connection_made(cast("asyncio.BaseTransport", self))
        self._catch_up()
        return application

    # what the application does

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt and send; more than INLINE bytes in a thread, and the application is paused meanwhile."""
        if self._closed:
            return
        if len(data) > INLINE:
            self._busy = True
            self._application.pause_writing()
            sealed = self._loop.run_in_executor(_threads, self._cipher.seal, data)
            sealed.add_done_callback(self._sealed)
            return
        try:
            self._send(self._cipher.seal(data))
        except ssl.SSLError as exc:
            self._loop.call_soon(self._end, exc)

    def pause_reading(self) -> None:
        """Give the application nothing more."""
        self._deaf = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Give it what has come, and read on."""
        self._deaf = False
        self._loop.call_soon(self._catch_up)

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet; one stands for what a thread is at."""
        return self._transport.get_write_buffer_size() + self._busy

    def get_extra_info(self, name: str) -> object:
        """What the socket's transport says."""
        return self._transport.get_extra_info(name)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closed or self._transport.is_closing()

    def abort(self) -> None:
        """End it now."""
        self._shut()
        self._transport.abort()

    # what the event loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._shaken and not self._busy:
            self._cipher.take(self._buffer[:nbytes])
            self._read()
            return
        self._held += self._buffer[:nbytes]
        self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._full = True
        if self._shaken and not self._busy:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._shaken and not self._busy:
            self._application.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        # An end without a farewell may be anybody's doing: an answer that says no length is not whole then.
        self._lost = exc or ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "ended without a farewell")
        self._wake()
        if self._shaken:
            self._catch_up()

    # how it goes on

    def _send(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _more(self) -> bytes:
        """What has come, once something has."""
        if not self._held and self._lost is None:
            self._waiter = self._loop.create_future()
            if not self._transport.is_closing():
                self._transport.resume_reading()
            await self._waiter
        if not self._held and self._lost is not None:
            raise self._lost
        data, self._held = self._held, b""
        return data

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _sealed(self, sealed: Future[bytes]) -> None:
        """A thread is through with a piece."""
        self._busy = False
        error = sealed.exception()
        if self._closed:
            return
        if error is not None:
            self._end(error)
            return
        self._send(sealed.result())
        self._catch_up()
        if not (self._full or self._closed or self._busy):
            self._application.resume_writing()

    def _catch_up(self) -> None:
        """Give the application what was held; then go on reading."""
        if self._closed or self._busy or self._deaf:
            return
        if self._held:
            self._cipher.take(self._held)
            self._held = b""
        self._read()
        if self._closed or self._busy or self._deaf:
            return
        if self._lost is not None:
            self._end(self._lost)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _read(self) -> None:
        """Open all that has come: at most one read of the socket (31 us), so it is done where it is."""
        cipher = self._cipher
        while not (self._closed or self._busy or self._deaf) and cipher.waits:
            size = cipher.open(self._buffer)
            self._send(cipher.words())
            if size:
                self._application.buffer_updated(size)
            if cipher.end is not None:
                self._end(cipher.end)

    def _end(self, why: BaseException) -> None:
        if self._closed:
            return
        self._leave()
        proper = isinstance(why, ssl.SSLZeroReturnError)
        self._application.connection_lost(None if proper else cast("Exception", why))

    def _leave(self) -> None:
        """End it when what has been said is sent, and soon in any case."""
        self._shut()
        self._transport.close()
        self._loop.call_later(_PARTING_SECONDS, self._transport.abort)

    def _shut(self) -> None:
        if not self._closed:
            self._closed = True
            # A parser and its connection hold each other until the garbage collector comes; OpenSSL's 50 KiB need not wait.
            del self._cipher
