"""What a verification found, and how it is told: to people, to machines, and to Prometheus.

A difference is named by where it is and by both values; nothing that was looked at and is right hides one that is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MOST_NAMED = 20
"""Differences of one check that are named one by one; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    where: str
    """Row, counter or entry."""
    what: str
    """What is wrong with it, with both values."""


@dataclass(slots=True)
class Check:
    """One question to the books, and its answer."""

    name: str
    title: str
    looked_at: int = 0
    """Rows, counters or entries."""
    findings: list[Finding] = field(default_factory=list[Finding])
    more: int = 0
    """Findings beyond those that are named."""
    notes: list[str] = field(default_factory=list[str])
    """What is worth knowing and is no difference."""
    skipped: str | None = None
    """Why it could not be asked."""

    @property
    def differences(self) -> int:
        """How many things are wrong."""
        return len(self.findings) + self.more

    def found(self, where: str, what: str) -> None:
        """Name a difference, or count it where enough are named."""
        if len(self.findings) < MOST_NAMED:
            self.findings.append(Finding(where, what))
        else:
            self.more += 1


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one verification."""

    started_at: datetime
    seconds: float
    watermark: datetime | None
    """All requests admitted before are in the ledger; None where it was not asked for."""
    checks: Sequence[Check]

    def without(self, name: str, title: str, reason: str) -> Report:
        """The same with a check that could not be made."""
        return replace(self, checks=[*self.checks, Check(name, title, skipped=reason)])

    @property
    def differences(self) -> int:
        """How many things are wrong in all."""
        return sum(each.differences for each in self.checks)

    @property
    def whole(self) -> bool:
        """Whether every check could be made."""
        return all(each.skipped is None for each in self.checks)

    @property
    def status(self) -> int:
        """The command's exit status: 0 all holds, 1 something does not, 2 not everything could be looked at."""
        return 1 if self.differences else 0 if self.whole else 2


def as_text(report: Report) -> str:
    """For people."""
    lines: list[str] = []
    if report.watermark is not None:
        lines += [
            f"Books complete up to {_moment(report.watermark)} (the oldest request not yet drained).",
            "",
        ]
    wide = max(len(each.title) for each in report.checks)
    for each in report.checks:
        if each.skipped is not None:
            verdict = f"not looked at: {each.skipped}"
        elif each.differences:
            verdict = f"{each.differences:,} WRONG of {each.looked_at:,}"
        else:
            verdict = f"ok, {each.looked_at:,} looked at, difference 0"
        lines.append(f"  {each.title:<{wide}}  {verdict}")
        lines += [f"    {found.where}: {found.what}" for found in each.findings]
        if each.more:
            lines.append(f"    and {each.more:,} more")
        lines += [f"    note: {note}" for note in each.notes]
    end = {
        0: "All of it holds.",
        1: f"{report.differences:,} differences.",
        2: "What could be looked at holds.",
    }
    lines += ["", f"{end[report.status]} {report.seconds:.1f} s."]
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """For machines."""
    told: dict[str, Any] = {
        "status": {0: "ok", 1: "differences", 2: "incomplete"}[report.status],
        "started_at": report.started_at.isoformat(),
        "seconds": round(report.seconds, 3),
        "watermark": None if report.watermark is None else report.watermark.isoformat(),
        "differences": report.differences,
        "checks": [asdict(each) | {"differences": each.differences} for each in report.checks],
    }
    return json.dumps(told, indent=2)


def as_metrics(report: Report) -> str:
    """For Prometheus: a textfile of its node exporter, or what a worker adds to its own page."""
    lines = [
        "# HELP weighbridge_verify_differences Differences that the last verification found, by check.",
        "# TYPE weighbridge_verify_differences gauge",
        *(
            f'weighbridge_verify_differences{{check="{each.name}"}} {each.differences}'
            for each in report.checks
        ),
        "# HELP weighbridge_verify_looked_at Rows, counters and entries that it looked at, by check.",
        "# TYPE weighbridge_verify_looked_at gauge",
        *(f'weighbridge_verify_looked_at{{check="{each.name}"}} {each.looked_at}' for each in report.checks),
        "# HELP weighbridge_verify_status Its exit status: 0 all holds, 1 differences, 2 not everything was looked at.",
        "# TYPE weighbridge_verify_status gauge",
        f"weighbridge_verify_status {report.status}",
        "# HELP weighbridge_verify_started_seconds When it began, in seconds since 1970.",
        "# TYPE weighbridge_verify_started_seconds gauge",
        f"weighbridge_verify_started_seconds {report.started_at.timestamp():.3f}",
        "# HELP weighbridge_verify_seconds How long it took.",
        "# TYPE weighbridge_verify_seconds gauge",
        f"weighbridge_verify_seconds {report.seconds:.3f}",
    ]
    return "\n".join(lines) + "\n"


def write_metrics(report: Report, path: Path) -> None:
    """Write them whole or not at all: whoever reads the file meanwhile reads the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(as_metrics(report))
    fresh.replace(path)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
