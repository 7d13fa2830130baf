"""The `instance` fixture of this folder."""

from __future__ import annotations

from tests.supervise.terminal import instance

__all__ = ["instance"]
