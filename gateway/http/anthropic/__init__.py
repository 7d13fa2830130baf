"""Anthropic's dialect of the data plane."""
