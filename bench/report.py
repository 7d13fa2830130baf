"""Rounds turned into medians with their spread, into tables, and into ratios to nginx of the same rounds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cells import CELLS
from bench.rounds import Sample

Samples = dict[str, dict[str, list[Sample]]]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to be reached: at most the value, or at least it where `at_least`."""

    name: str
    cell: str
    figure: str
    first_light: float
    target: float
    unit: str
    at_least: bool = False


TARGETS = (
    Target("CPU a plain call, 16 at once", "plain-16", "cpu_ms", 0.25, 0.12, "ms"),
    Target("the same against nginx", "plain-16", "cpu_ratio", 20, 10, "x"),
    Target("calls a second, 16 at once", "plain-16", "rps", 3500, 8000, "/s", at_least=True),
    Target("p50 added over nginx, 1 at once", "plain-1", "p50_added_ms", 0.6, 0.25, "ms"),
    Target("first chunk p50, 16 paced streams", "paced-16", "first_p50_ms", 3, 1.2, "ms"),
    Target("CPU a paced stream of 64 chunks", "paced-16", "cpu_ms", 2.2, 1.5, "ms"),
    Target("CPU a burst stream of 64 chunks", "burst-16", "cpu_ms", 0.8, 0.45, "ms"),
    Target("memory of the worker after the load", "memory", "worker_mb", 150, 100, "MB"),
)


def medians(samples: Samples) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """cell -> target -> figure -> median, least and most over the rounds; ratios are taken round by round."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for cell, targets in samples.items():
        floor = targets.get("nginx")
        for target, rounds in targets.items():
            figures = {name: [each[name] for each in rounds] for name in rounds[0]}
            if floor is not None and target != "nginx":
                pairs = list(zip(rounds, floor, strict=True))
                figures["cpu_ratio"] = [one["cpu_ms"] / other["cpu_ms"] for one, other in pairs]
                figures["p50_added_ms"] = [one["p50_ms"] - other["p50_ms"] for one, other in pairs]
            found.setdefault(cell, {})[target] = {
                name: {"median": median(values), "least": min(values), "most": max(values)}
                for name, values in figures.items()
            }
    return found


def tables(samples: Samples, memory: dict[str, float], checked: dict[str, int]) -> str:
    """What is printed: one table of cells, one of shares, one of targets; Markdown."""
    found = medians(samples)
    lines = [
        "| cell | target | calls/s | p50 ms | p99 ms | first chunk p50 ms | CPU ms a call (least-most) | x nginx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        for target, figures in found.get(cell.name, {}).items():
            at = {name: each["median"] for name, each in figures.items()}
            spread = figures["cpu_ms"]
            ratio = f"{at['cpu_ratio']:.1f}" if "cpu_ratio" in at else ""
            first = f"{at['first_p50_ms']:.2f}" if cell.stream else ""
            lines.append(
                f"| {cell.title} | {target} | {at['rps']:,.0f} | {at['p50_ms']:.2f} | {at['p99_ms']:.2f} | {first} "
                f"| {spread['median']:.4f} ({spread['least']:.4f}-{spread['most']:.4f}) | {ratio} |"
            )
    lines += [
        "",
        "CPU ms a call by process; the gateway is worker and drainer, the others stand beside it:",
        "",
        "| cell | worker | drainer | Redis | PostgreSQL | upstream | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        if cell.name in found:
            at = {name: each["median"] for name, each in found[cell.name]["gateway"].items()}
            parts = ("worker", "drainer", "redis", "postgresql", "upstream", "load")
            lines.append(
                f"| {cell.title} | " + " | ".join(f"{at[f'{name}_ms']:.4f}" for name in parts) + " |"
            )
    lines += ["", "| figure | measured | first light | target |", "|---|---|---|---|"]
    for figure, value in measured(found, memory):
        lines.append(
            f"| {figure.name} | {value:,.3g} {figure.unit} {_standing(figure, value)} "
            f"| {figure.first_light:,g} | {figure.target:,g} |"
        )
    lines += [
        "",
        (
            f"Worker: {memory['worker_at_rest_mb']:.0f} MB at rest, {memory['worker_mb']:.0f} MB after, of which "
            f"{memory['worker_at_rest_own_mb']:.0f} and {memory['worker_own_mb']:.0f} MB are its own and the rest is "
            f"shared with other processes; drainer: {memory['drainer_mb']:.0f} MB."
        ),
        (
            f"Books: {checked['calls']:,} calls, {checked['prompt_tokens'] + checked['completion_tokens']:,} tokens, "
            f"{checked['cost_nano_usd'] / 1e9:,.4f} dollars: ledger, upstream and counters agree; nothing is open."
        ),
    ]
    return "\n".join(lines)


def measured(found: dict[str, Any], memory: dict[str, float]) -> list[tuple[Target, float]]:
    """The figures of TARGETS that this run has."""
    values: list[tuple[Target, float]] = []
    for figure in TARGETS:
        if figure.cell == "memory":
            values.append((figure, memory[figure.figure]))
        else:
            each = found.get(figure.cell, {}).get("gateway", {}).get(figure.figure)
            if each is not None:
                values.append((figure, each["median"]))
    return values


def _standing(figure: Target, value: float) -> str:
    def reached(bound: float) -> bool:
        return value >= bound if figure.at_least else value <= bound

    if reached(figure.target):
        return "(target reached)"
    return "(first light reached)" if reached(figure.first_light) else "(MISSED)"
