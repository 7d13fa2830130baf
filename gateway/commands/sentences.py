"""What commands share: the settings, and failures said in one sentence on stderr with a status that is not 0."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.settings import Settings

T = TypeVar("T")
ADMIN_KEY = click.option(
    "--admin-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with an administrator's key (default: admin.key in WEIGHBRIDGE_HOME).",
)


def settings() -> Settings:
    from gateway.settings import Settings, SettingsError

    try:
        return Settings.from_env()
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


def told(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    import asyncio

    return guarded(lambda: asyncio.run(work()))


def guarded(work: Callable[[], T]) -> T:
    """What `work` answers; what went wrong as one sentence."""
    from gateway.cli.failures import sentence

    try:
        return work()
    except Exception as exc:
        said = sentence(exc)
        if said is None:
            raise
        raise click.ClickException(said) from exc
