"""`weighbridge engine experts`: which experts the local engine's traffic used, from the running gateway's own counters."""

from __future__ import annotations

import re
import time
from collections import Counter
from urllib.error import URLError
from urllib.request import urlopen

from engines.experts import LayerBalance, balances
from gateway.cli.reach import CannotReach
from gateway.settings import Settings

_SAMPLE = re.compile(r'^weighbridge_expert_tokens_total\{expert="(\d+)",layer="(\d+)"\} (\S+)', re.MULTILINE)
_FLAG = "--enable-return-routed-experts (`tell-experts` in WEIGHBRIDGE_ENGINE_RECIPE)."
_SECONDS = 15.0


def experts(settings: Settings, seconds: float) -> list[str]:
    """A line a layer: of everything since the start, or of so many seconds from now."""
    counts = _counts(settings)
    if seconds:
        time.sleep(seconds)
        counts = _counts(settings) - counts
    if not counts:
        return [
            "No answer has told of its experts. vLLM tells, in plain answers, where it runs on a GPU with",
            _FLAG,
        ]
    lines = [f"{'layer':>5} {'tokens':>12}  {'busiest':<14} {'idlest':<14} busiest/mean"]
    return lines + [_line(each) for each in balances(counts)]


def read_counts(page: str) -> Counter[tuple[int, int]]:
    """Tokens by layer and expert, of a page of the gateway's metrics."""
    found: Counter[tuple[int, int]] = Counter()
    for expert, layer, value in _SAMPLE.findall(page):
        found[int(layer), int(expert)] += int(float(value))
    return found


def _counts(settings: Settings) -> Counter[tuple[int, int]]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/metrics"
    try:
        with urlopen(url, timeout=_SECONDS) as answer:
            return read_counts(answer.read().decode(errors="replace"))
    except (URLError, OSError) as exc:
        raise CannotReach(f"{url} does not answer ({exc}); start the gateway with `weighbridge up`.") from exc


def _line(each: LayerBalance) -> str:
    busiest = f"{each.busiest} ({100 * each.busiest_share:.1f} %)"
    idlest = f"{each.idlest} ({100 * each.idlest_share:.1f} %)"
    return f"{each.layer:>5} {each.tokens:>12,}  {busiest:<14} {idlest:<14} {each.skew:.2f}"
