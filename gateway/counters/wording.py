"""What a caller is told of limits: refusals that name the limit, whose it is, what is left and when it resets.

Also the `x-ratelimit-*` headers of the tightest limits. No name of another principal is ever in them: a caller
sees its own limits, its groups' and the endpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.counters.plan import Frame, Plan
from gateway.counters.taps import CONCURRENCY, Tap
from gateway.errors import BudgetExhausted, LimitDetail, LimitExceeded
from policies.limits import Metric, window_words
from policies.weighing import NEVER, retry_after_seconds

_DAY_SECONDS = 86_400
_UNITS = {
    Metric.REQUESTS: "requests",
    Metric.INPUT_TOKENS: "input tokens",
    Metric.OUTPUT_TOKENS: "output tokens",
    Metric.TOTAL_TOKENS: "tokens",
    Metric.CONCURRENT_REQUESTS: "requests",
}


def refusal(
    plan: Plan, tap: Tap, *, now_ms: int, left: int, reset_ms: int, needed: int
) -> LimitExceeded | BudgetExhausted:
    """The error for a refused admission; `reset_ms` counts from `now_ms`, -1 where no wait would help."""
    draw = tap.draw
    detail = detail_of(tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
    resets_at = detail.resets_at_ms
    headers = limit_headers(plan, tap, left, reset_ms)
    if draw.metric is Metric.MONEY:
        what = f"Budget {draw.name!r} of {draw.owner}" if draw.name else f"The budget of {draw.owner}"
        message = (
            f"{what}: {_dollars(draw.capacity)}{window_words(draw.window)}, {_dollars(left)} left,"
            f" this request may cost up to {_dollars(needed)}; {_when(reset_ms, resets_at)}."
        )
        return BudgetExhausted(message, detail, headers=headers)
    what = f"Rate limit {draw.name!r} of {draw.owner}" if draw.name else f"Rate limit of {draw.owner}"
    unit = _UNITS[draw.metric]
    message = (
        f"{what}: {draw.capacity} {unit}{window_words(draw.window)}, {left} left,"
        f" this request needs {needed}; {_when(reset_ms, resets_at)}."
    )
    wait = retry_after_seconds(draw, reset_ms)
    return LimitExceeded(message, detail, retry_after_seconds=wait, headers=headers)


def detail_of(tap: Tap, *, now_ms: int, left: int, reset_ms: int, needed: int) -> LimitDetail:
    """What machines are told of the limit that refused."""
    draw = tap.draw
    return LimitDetail(
        limit=draw.limit_id,
        metric=draw.metric.value,
        scope=draw.owner,
        amount=draw.capacity,
        remaining=left,
        requested=needed,
        window="at once" if draw.window is None else draw.window.words,
        resets_at_ms=now_ms + reset_ms if reset_ms != NEVER else 0,
    )


def admitted_fields(
    frame: Frame, charged: Sequence[int], remaining: Sequence[int], resets: Sequence[int]
) -> bytes:
    """`x-ratelimit-*` for requests and for tokens, each of the tightest charged limit, as lines of an answer's head.

    `charged` holds a tap's position in its counter, or -1.
    """
    fields = b""
    for lines, indexes in ((_REQUEST_LINES, frame.requests), (_TOKEN_LINES, frame.tokens)):
        best, least = -1, 0
        for index in indexes:
            if charged[index] >= 0 and (best < 0 or remaining[index] < least):
                best, least = index, remaining[index]
        if best >= 0:
            fields += lines % (frame.forms[best][3], least if least > 0 else 0, duration(resets[best]))
    return fields


def limit_headers(plan: Plan, tap: Tap, left: int, reset_ms: int) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-*` of the one limit that refused; nothing for money and concurrency, which have no such header."""
    if tap.draw.metric is Metric.MONEY or tap.kind == CONCURRENCY:
        return []
    names = _REQUESTS if tap.draw.metric is Metric.REQUESTS else _TOKENS
    headers = [(names[0], b"%d" % tap.draw.capacity), (names[1], b"%d" % max(0, left))]
    return headers if reset_ms == NEVER else [*headers, (names[2], duration(reset_ms))]


def duration(ms: int) -> bytes:
    """A span as OpenAI's headers write it: `850ms`, `12.5s`, `6m0s`, `1h2m0s`."""
    if ms < 1000:
        return b"%dms" % (ms if ms > 0 else 0)
    seconds, rest = divmod(ms, 1000)
    tail = b"s" if not rest else b".%03ds" % rest
    if seconds < 60:
        return b"%d%b" % (seconds, tail)
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return b"%dm%d%b" % (minutes, seconds, tail)
    return b"%dh%dm%d%b" % (*divmod(minutes, 60), seconds, tail)


def _when(reset_ms: int, resets_at_ms: int) -> str:
    if reset_ms == NEVER:
        return "it is more than the limit ever allows: ask for less, or have the limit raised"
    if reset_ms > 365 * _DAY_SECONDS * 1000:
        return "it does not reset: have it raised"
    at = datetime.fromtimestamp(resets_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if reset_ms > 2 * _DAY_SECONDS * 1000:
        return f"resets at {at}"
    return f"enough is free in {max(1, -(-reset_ms // 1000))} s, at {at}"


def _dollars(nano_usd: int) -> str:
    text = f"{nano_usd // 1_000_000_000}.{nano_usd % 1_000_000_000:09d}"
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"


_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")
_REQUEST_LINES, _TOKEN_LINES = (
    b"%b: %%d\r\n%b: %%d\r\n%b: %%b\r\n" % names for names in (_REQUESTS, _TOKENS)
)
