"""The line: every request walks it, one file a step."""
