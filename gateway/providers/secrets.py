"""Where a provider's credential comes from: sealed in the configuration, from the environment, or from a file.

An administrator names a variable or a file, never a path: what else the process can read stays out of reach. A file is
read again when it changes, so that whoever rotates it needs no restart.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engines.access import Fixed, NoCredential, Secrets
from gateway.security.sealing import SealError, Sealing, provider_subject
from policies.catalog import Account

VARIABLE = re.compile(r"WEIGHBRIDGE_CREDENTIAL_[A-Z0-9_]{1,64}", re.ASCII)
"""What a variable that holds a credential is called."""
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
"""What a file in the credentials' folder is called."""
_LARGEST = 16_384
_LOOK_SECONDS = 0.5


def secrets_of(
    account: Account, sealing: Sealing, folder: Path, environ: Mapping[str, str] | None = None
) -> Secrets:
    """The versions of an account's credential; raises nothing: what cannot be had is told when it is asked for."""
    match account.source:
        case "stored":
            return _opened(account, sealing)
        case "environment":
            return _Variable(account.reference or "", os.environ if environ is None else environ)
        case "file":
            return _File(folder, account.reference or "")
        case _:
            return Fixed()


class _Unopened:
    def __init__(self, why: str) -> None:
        self._why = why

    def current(self) -> Sequence[str]:
        raise NoCredential(self._why)


def _opened(account: Account, sealing: Sealing) -> Secrets:
    subject = provider_subject(account.id, account.base_url)
    try:
        return Fixed(*(sealing.open(each, subject).decode() for each in account.sealed))
    except (SealError, UnicodeDecodeError) as error:
        return _Unopened(f"the stored credential cannot be opened: {error}")


class _Variable:
    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self._name = name
        self._environ = environ

    def current(self) -> Sequence[str]:
        value = self._environ.get(self._name, "") if VARIABLE.fullmatch(self._name) else ""
        if not value:
            raise NoCredential(f"{self._name} is not set where the workers run")
        return (value,)


class _File:
    """A file's content; the one before it still counts, as a provider may be slower to see the new one."""

    def __init__(self, folder: Path, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / name if FILE.fullmatch(name) else None
        self._monotonic = monotonic
        self._looked = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._secrets: tuple[str, ...] = ()

    def current(self) -> Sequence[str]:
        now = self._monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._look()
        if not self._secrets:
            raise NoCredential("the credential's file cannot be read, or is empty")
        return self._secrets

    def _look(self) -> None:
        if self._path is None:
            return
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                text = file.read(_LARGEST).decode().strip()
        except (OSError, UnicodeDecodeError):
            # It may be in the middle of being put in place: what was read last still counts.
            return
        self._seen = seen
        if text and self._secrets[:1] != (text,):
            self._secrets = (text, *self._secrets[:1])
