"""What can keep an embedded part from running, each as one sentence that says what to do."""

from __future__ import annotations


class EmbeddedError(RuntimeError):
    """An embedded part cannot run; the text is meant for the person who started it."""
