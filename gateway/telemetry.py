"""Metrics: all names in one place, counted in plain numbers on the way and handed to Prometheus once a second.

A counter of the client library costs a lock and a write to a mapped file; a number costs neither. Of many endpoints a
turn hands over some, the others' turn comes. What a killed worker had not handed over yet is lost from the metrics
only; the ledger has it.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.tally import Tally
from policies.doubts import Doubt
from policies.throughput import Lane
from policies.usage import Usage

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    from gateway.pipeline.exchange import Exchange
    from gateway.routing.passes import Pass

FLUSH_SECONDS = 1.0
ENDPOINTS_A_TURN = 100
"""Some 30 us each. With a thousand endpoints in use all of them each second took 25 us of every call, 25 ms at once."""
_LATE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def metrics_folder(home: Path) -> Path:
    """Where processes leave what `/metrics` adds up."""
    return home / "run" / "metrics"


class Telemetry:
    """One worker's metrics; the line's Observer."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        # The library reads this variable when it is first imported, which is why the import is here.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        from prometheus_client import Counter, Gauge, Histogram

        self._requests: Counter = Counter(
            "weighbridge_requests",
            "Requests that were admitted and have ended.",
            ["endpoint", "api", "status"],
            registry=None,
        )
        self._refused: Counter = Counter(
            "weighbridge_refused", "Requests refused before admission.", ["code"], registry=None
        )
        self._tokens: Counter = Counter(
            "weighbridge_tokens", "Tokens settled.", ["endpoint", "kind"], registry=None
        )
        self._cost: Counter = Counter(
            "weighbridge_cost_nano_usd", "Cost settled, in 1e-9 USD.", ["endpoint"], registry=None
        )
        self._free: Counter = Counter(
            "weighbridge_priced_at_zero",
            "Requests with tokens on a priced entity whose cost came out 0.",
            ["endpoint"],
            registry=None,
        )
        self._duration: Histogram = Histogram(
            "weighbridge_request_seconds",
            "From the first byte of the request to its settlement.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=None,
        )
        self._first: Histogram = Histogram(
            "weighbridge_first_byte_seconds",
            "From the first byte of the request to the first of the answer.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=None,
        )
        self._doubted: Counter = Counter(
            "weighbridge_usage_doubted",
            "Requests whose upstream told a count that cannot be true: impossible, input, output, few.",
            ["endpoint", "doubt"],
            registry=None,
        )
        self._payloads: Counter = Counter(
            "weighbridge_payloads",
            "Calls that are kept with what was asked and answered: stored, dropped for want of room.",
            ["outcome"],
            registry=None,
        )
        self._provisioned: Counter = Counter(
            "weighbridge_provision_requests",
            "Requests of provisions' holders by lane: covered, awaited, or lent beyond what is kept for them.",
            ["provision", "lane"],
            registry=None,
        )
        self._carried: Counter = Counter(
            "weighbridge_provision_tokens", "Tokens of the same.", ["provision", "lane"], registry=None
        )
        self._late: Counter = Counter(
            "weighbridge_provision_late",
            "Covered streams whose first token came after the provision's target.",
            ["provision"],
            registry=None,
        )
        self._first_token: Histogram = Histogram(
            "weighbridge_provision_first_token_seconds",
            "From the first byte of a covered stream's request to the first token of its answer.",
            ["provision"],
            buckets=_BUCKETS,
            registry=None,
        )
        self._experts: Counter = Counter(
            "weighbridge_expert_tokens",
            "Tokens of the local engine's plain answers by layer and expert, where vLLM reports routed experts.",
            ["layer", "expert"],
            registry=None,
        )
        self._loop: Histogram = Histogram(
            "weighbridge_event_loop_late_seconds",
            "How late a worker's timer came: for so long its event loop was at something else.",
            buckets=_LATE_BUCKETS,
            registry=None,
        )
        self._running: Gauge = Gauge(
            "weighbridge_requests_running",
            "Requests between admission and settlement.",
            multiprocess_mode="livesum",
            registry=None,
        )
        self._state: Gauge = Gauge(
            "weighbridge_state",
            "State of this deployment's parts.",
            ["part"],
            multiprocess_mode="livemax",
            registry=None,
        )
        self._configuration: Gauge = Gauge(
            "weighbridge_configuration",
            "Number of the configuration's change that each process follows.",
            multiprocess_mode="liveall",
            registry=None,
        )
        self._tallies: dict[str, Tally] = {}
        """By endpoint; the one that waits longest comes first."""
        self._turned_away: defaultdict[str, int] = defaultdict(int)
        self._kept: defaultdict[str, int] = defaultdict(int)
        self._lanes: defaultdict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._missed: defaultdict[str, int] = defaultdict(int)
        self._first_tokens: defaultdict[str, list[int]] = defaultdict(list)
        self._lates: list[int] = []
        self.running = 0

    def admitted(self, exchange: Exchange) -> None:
        """A request passed admission."""
        self.running += 1

    def failed(self, exchange: Exchange, usage: Usage, doubt: Doubt | None) -> None:
        """An attempt failed, and its upstream told what it had used; what that cost is in the request's."""
        tally = self._tallies.setdefault(exchange.endpoint.name, Tally())
        tally.prompt_tokens += usage.prompt_tokens
        tally.completion_tokens += usage.completion_tokens
        if doubt is not None:
            tally.doubts[doubt] += 1

    def settled(
        self, exchange: Exchange, status: str, usage: Usage, cost_nano_usd: int, duration_ns: int
    ) -> None:
        """A request has ended."""
        name = exchange.endpoint.name
        self.running -= 1
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = Tally()
        tally.ended[exchange.api, status] += 1
        # As `prompt_tokens` and `completion_tokens`, without two calls for every request.
        prompt = usage.fresh_input + usage.cache_read + usage.cache_write
        completion = usage.output + usage.reasoning
        tally.prompt_tokens += prompt
        tally.completion_tokens += completion
        tally.cost_nano_usd += cost_nano_usd
        if not cost_nano_usd and (prompt or completion):
            entity = exchange.entity
            if entity is not None and entity.price.priced:
                tally.unpriced += 1
        if exchange.doubt is not None:
            tally.doubts[exchange.doubt] += 1
        first = exchange.first_byte_ns
        tally.durations_ns.append(duration_ns)
        if first is not None:
            tally.firsts_ns.append(first - exchange.received_ns)
        lease = exchange.lease
        if lease is not None and lease.had is not None and lease.had.provision is not None:
            self._provision(lease.had, exchange, usage)

    def _provision(self, had: Pass, exchange: Exchange, usage: Usage) -> None:
        """Count a call whose caller has provisioned throughput."""
        provision, first = had.provision, exchange.first_byte_ns
        assert provision is not None
        requests, tokens = self._lanes[provision.name, had.lane]
        self._lanes[provision.name, had.lane] = requests + 1, tokens + usage.total_tokens
        if had.lane is not Lane.COVERED or first is None or not exchange.request.stream:
            return
        took = first - exchange.received_ns
        self._first_tokens[provision.name].append(took)
        if provision.first_token_ms is not None and took > provision.first_token_ms * 1_000_000:
            self._missed[provision.name] += 1

    def refused(self, code: str) -> None:
        """A request was refused before admission."""
        self._turned_away[code] += 1

    def came_late(self, seconds: float) -> None:
        """The event loop came round so late."""
        self._lates.append(int(seconds * 1e9))

    def payload(self, outcome: str) -> None:
        """A call that was to be kept was `stored` or `dropped`."""
        self._kept[outcome] += 1

    def experts(self, counts: Mapping[tuple[int, int], int]) -> None:
        """What answers told of experts since the last time."""
        for (layer, expert), count in counts.items():
            self._experts.labels(str(layer), str(expert)).inc(count)

    def state(self, part: str, value: float) -> None:
        """The state of a part: 1 well, 0 not; or an amount."""
        self._state.labels(part).set(value)

    def follows(self, version: int) -> None:
        """The configuration that is followed from now on."""
        self._configuration.set(version)

    def flush(self, endpoints: int | None = None) -> None:
        """Hand over what was counted; of no more than so many endpoints."""
        tallies = self._tallies
        for name in list(tallies if endpoints is None else islice(tallies, endpoints)):
            self._hand_over(name, tallies.pop(name))
        for code, count in self._turned_away.items():
            self._refused.labels(code).inc(count)
        for outcome, count in self._kept.items():
            self._payloads.labels(outcome).inc(count)
        for (name, lane), (requests, tokens) in self._lanes.items():
            self._provisioned.labels(name, lane).inc(requests)
            self._carried.labels(name, lane).inc(tokens)
        for name, count in self._missed.items():
            self._late.labels(name).inc(count)
        for name, times in self._first_tokens.items():
            _observe(self._first_token.labels(name), times)
        for counted in (self._turned_away, self._kept, self._lanes, self._missed, self._first_tokens):
            counted.clear()
        if self._lates:
            _observe(self._loop, self._lates)
            self._lates.clear()
        self._running.set(self.running)

    def _hand_over(self, name: str, tally: Tally) -> None:
        """What one endpoint's calls came to."""
        for (api, status), count in tally.ended.items():
            self._requests.labels(name, api, status).inc(count)
        self._tokens.labels(name, "prompt").inc(tally.prompt_tokens)
        self._tokens.labels(name, "completion").inc(tally.completion_tokens)
        self._cost.labels(name).inc(tally.cost_nano_usd)
        if tally.unpriced:
            self._free.labels(name).inc(tally.unpriced)
        for why, count in tally.doubts.items():
            self._doubted.labels(name, why).inc(count)
        _observe(self._duration.labels(name), tally.durations_ns)
        if tally.firsts_ns:
            _observe(self._first.labels(name), tally.firsts_ns)

    def page(self) -> bytes:
        """All workers' metrics in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        self.flush()
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))
        return generate_latest(registry)


def forget_present(folder: Path, pid: int | None = None) -> None:
    """Take back what a process that is gone said of the present, or what all of them did; what they counted stays."""
    for left in folder.glob(f"gauge_live*_{pid or '*'}.db"):
        left.unlink(missing_ok=True)


def _observe(histogram: Histogram, times_ns: list[int]) -> None:
    """Many observations at once; one by one, each a write to the mapped file, they were 3 % of a worker's time."""
    counts = [0] * len(histogram._upper_bounds)
    for each in times_ns:
        counts[bisect_left(histogram._upper_bounds, each / 1e9)] += 1
    histogram._sum.inc(sum(times_ns) / 1e9)
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
