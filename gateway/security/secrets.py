"""The master key outside the database, and the keys derived from it for each purpose.

A missing, open, short or guessable master key stops the start: nothing ever runs on a default secret.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gateway.security.derivation import derived

MINIMUM_BYTES = 32
_DISTINCT_BYTES = 12
_MAXIMUM_BYTES = 65536
_SALT = b"weighbridge master key"
_GUESSABLE = re.compile(
    rb"change.?me|replace.?me|default|example|password|secret.?key|insecure", re.IGNORECASE
)
_VERSIONED = re.compile(rb"([1-9][0-9]{0,3}):(.+)")


class SecretError(Exception):
    """The master key cannot be used; the text says why and what to do."""


class Purpose(StrEnum):
    """What a derived key is for; no two purposes ever share a key."""

    API_KEY_PEPPER = "api-key pepper"
    AUDIT_CHAIN = "audit chain"
    CACHE_SALT = "cache salt"
    CREDENTIALS = "credentials"
    KEPT_RESPONSES = "kept responses"
    SESSIONS = "console sessions"
    STORED_ANSWERS = "stored answers"
    STORED_QUESTIONS = "stored questions"


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """Every version of the master key by number; the highest makes what is new, the others still verify."""

    versions: Mapping[int, bytes]

    @property
    def newest(self) -> int:
        """The version that new things are made with."""
        return max(self.versions)

    def derive(self, purpose: Purpose, *, version: int | None = None) -> bytes:
        """32 bytes for one purpose; KeyError for a version that the file no longer holds."""
        key = self.versions[self.newest if version is None else version]
        return derived(key, _SALT, purpose.value.encode())

    def derive_all(self, purpose: Purpose) -> dict[int, bytes]:
        """The key for one purpose under every version, for what was made with an older one."""
        return {version: self.derive(purpose, version=version) for version in self.versions}


def load_master_key(path: Path, *, create: bool = False) -> MasterKey:
    """Read the master key; `create` makes one where there is none (the first start on embedded stores).

    The file holds one secret, or one `<version>:<secret>` a line while versions overlap.
    """
    try:
        content = _read(path)
    except FileNotFoundError:
        if not create:
            raise SecretError(
                f"There is no master key at {path}. Restore it from your backup; for a new deployment make one with "
                f"'(umask 077; head -c 32 /dev/urandom | base64 > {path})' and back it up."
            ) from None
        _create(path)
        content = _read(path)
    lines = content.split(b"\n")
    matches = [_VERSIONED.fullmatch(line.strip()) for line in lines if line.strip()]
    if matches and all(matches):
        versions = {int(match[1]): match[2].strip() for match in matches if match}
        if len(versions) != len(matches):
            raise SecretError(f"{path} names one version of the master key twice.")
    else:
        versions = {1: content}
    for version, secret in versions.items():
        _refuse_weak(path, version, secret)
    return MasterKey(versions)


def write_private(path: Path, text: str) -> None:
    """Put `text` in place whole, mode 0600, never readable by others at any moment."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        # A group may read it where a container's user is only the group's; others never.
        if mode & 0o037:
            raise SecretError(
                f"The master key {path} can be read or changed by others (mode {mode:04o}): run chmod 600 {path}"
            )
        return file.read(_MAXIMUM_BYTES).strip(b"\r\n")


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(scratch, secrets.token_urlsafe(48) + "\n")
    try:
        os.link(scratch, path)
    except FileExistsError:
        # Another process was first: its key is the key.
        pass
    finally:
        scratch.unlink(missing_ok=True)


def _refuse_weak(path: Path, version: int, secret: bytes) -> None:
    problem = None
    if len(secret) < MINIMUM_BYTES:
        problem = f"is {len(secret)} bytes long; it takes at least {MINIMUM_BYTES}"
    elif len(set(secret)) < _DISTINCT_BYTES:
        problem = "repeats itself; it takes random bytes"
    elif _GUESSABLE.search(secret):
        problem = "looks like a placeholder; it takes random bytes"
    if problem is not None:
        raise SecretError(
            f"Version {version} of the master key in {path} {problem}, such as those of 'head -c 32 /dev/urandom | base64'."
        )
