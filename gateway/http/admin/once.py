"""Idempotency-Key on changes of the control plane: the same request again gets the first one's answer.

The transaction of the change stays open until its answer is there to be kept in it; whatever goes wrong before that
undoes the change. What an answer shows once only is never kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import msgspec
from litestar import Request, Response

from gateway.errors import BadRequest
from gateway.store.changes import Change
from gateway.store.once import Answer, Claim, Replayed, claim

HEADER = "Idempotency-Key"
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LONGEST = 255


class _Abandoned(Exception):
    """The answer to a change could not be made, so the change is not either."""


class Once:
    """One request that is to change something once."""

    __slots__ = ("_change", "_opened", "claim")

    def __init__(self, wanted: Claim) -> None:
        self.claim = wanted
        self._opened: AbstractAsyncContextManager[Change] | None = None
        self._change: Change | None = None

    @asynccontextmanager
    async def making(self, opened: AbstractAsyncContextManager[Change]) -> AsyncGenerator[Change]:
        """The change, which is not committed at the block's end but with its answer."""
        if self._opened is not None:
            raise RuntimeError("a request makes one change")
        change = await opened.__aenter__()
        try:
            yield change
        except BaseException as error:
            if not await opened.__aexit__(type(error), error, error.__traceback__):
                raise
        self._opened, self._change = opened, change

    async def commit(self, response: Response[Any]) -> bool:
        """Commit the change with this answer; False where there was none."""
        opened, change = self._opened, self._change
        if opened is None or change is None:
            return False
        change.answer = Answer(response.status_code or 200, response.headers.get("etag"), _shown(response))
        # From here on it ends by itself, with a commit or with an error that undoes it.
        self._opened = None
        await opened.__aexit__(None, None, None)
        return True

    async def abandon(self) -> None:
        """Undo a change that got no answer."""
        opened, self._opened = self._opened, None
        if opened is not None:
            error = _Abandoned()
            with suppress(_Abandoned):
                await opened.__aexit__(_Abandoned, error, error.__traceback__)


CURRENT: ContextVar[Once | None] = ContextVar("once", default=None)
"""Of the request that is being answered."""


async def read_once(request: Request[Any, Any, Any], chain_key: bytes) -> Once | None:
    """What the request asks for with its header; raises BadRequest for a header that is no key."""
    key = request.headers.get(HEADER)
    if key is None or request.method not in _CHANGING:
        return None
    if not 0 < len(key) <= _LONGEST or not (key.isascii() and key.isprintable()):
        raise BadRequest(
            f"The header {HEADER} takes 1 to {_LONGEST} printable ASCII characters.", param=HEADER
        )
    told = b"\0".join(
        (
            request.method.encode(),
            str(request.url.path).encode(),
            str(request.url.query).encode(),
            await request.body(),
        )
    )
    return Once(claim(chain_key, request.state["caller"].principal.id, key, told))


def replay(replayed: Replayed) -> Response[bytes]:
    """The first answer again."""
    answer = replayed.answer
    headers = {"idempotent-replayed": "true", "cache-control": "no-store"}
    if answer.etag is not None:
        headers["etag"] = answer.etag
    return Response(answer.body, status_code=answer.status, headers=headers, media_type="application/json")


def _shown(response: Response[Any]) -> bytes:
    content = response.content
    if content is None:
        return b""
    shown: Any = msgspec.to_builtins(content)
    for name in getattr(content, "SHOWN_ONCE", ()):
        shown[name] = None
    return msgspec.json.encode(shown)
