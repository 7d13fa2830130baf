"""The fixtures of this folder."""

from __future__ import annotations

from tests.supervise.terminal import instance, light

__all__ = ["instance", "light"]
