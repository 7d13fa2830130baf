"""Signed heads of the audit's chain, for a place outside of the database: what is cut off behind one is found.

A line is written whole and never changed. One that the chain's key did not sign is told apart from one that is torn.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.store.audit import Head, canonical

_PURPOSE = b"weighbridge audit head"


class ForgedHead(Exception):
    """A file of heads has a line that was not signed with the chain's key; the text says which."""


def signed(head: Head, at_us: int, key: bytes) -> dict[str, Any]:
    """What is exported of a head."""
    told: dict[str, Any] = {"number": head.number, "digest": head.digest.hex(), "at_us": at_us}
    return {**told, "signature": _signature(told, key)}


def read_signed(told: Mapping[str, Any], keys: Sequence[bytes]) -> Head | None:
    """The head, if one of the keys signed it."""
    try:
        head = Head(int(told["number"]), bytes.fromhex(told["digest"]))
        again = [signed(head, int(told["at_us"]), key)["signature"] for key in keys]
        fits = any(hmac.compare_digest(each, str(told["signature"])) for each in again)
    except (KeyError, TypeError, ValueError):
        return None
    return head if fits else None


def write_head(path: Path, told: Mapping[str, Any]) -> None:
    """Append a signed head and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (canonical(dict(told)) + "\n").encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def read_heads(path: Path, keys: Sequence[bytes]) -> list[Head]:
    """Every head in the file, none where there is no file; raises ForgedHead. A last line that is torn is passed over."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    found: list[Head] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            head = read_signed(json.loads(line), keys)
        except (ValueError, TypeError):
            head = None
        if head is None:
            raise ForgedHead(f"{path}, line {number}, was not signed with the audit's key")
        found.append(head)
    return found


def _signature(told: Mapping[str, Any], key: bytes) -> str:
    own = hmac.digest(key, _PURPOSE, "sha256")
    return hmac.digest(own, canonical(dict(told)).encode(), "sha256").hex()
