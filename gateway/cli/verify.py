"""`weighbridge verify`: ask the books whether they hold, and say so to people, machines and monitoring."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.cli.reach import CannotReach, database_url, redis_url
from gateway.security.secrets import Purpose, load_master_key
from gateway.settings import Settings
from gateway.verify.findings import Report, as_json, as_metrics, as_text, write_metrics
from gateway.verify.run import verify

FORMATS = {"text": as_text, "json": as_json, "prometheus": as_metrics}
METRICS = "verify.prom"
"""In the run folder: what workers show of the last verification on their page of metrics."""


def run(settings: Settings, *, audit_only: bool, heads: Path | None, metrics: Path | None) -> Report:
    """Verify, and leave the metrics; raises what keeps it from being done at all."""
    keys = list(load_master_key(settings.secret_file).derive_all(Purpose.AUDIT_CHAIN).values())
    url = database_url(settings, "weighbridge_app")
    redis, away = None, None
    if not audit_only:
        try:
            redis = redis_url(settings)
        except CannotReach as error:
            away = str(error)
    report = asyncio.run(
        verify(settings, url, redis, keys, audit_only=audit_only, heads=heads or settings.audit_heads)
    )
    if away is not None:
        report = report.without("counters", "Budgets' counters in Redis", away)
    if not audit_only:
        write_metrics(report, settings.home / "run" / METRICS)
    if metrics is not None:
        write_metrics(report, metrics)
    return report
