"""Anthropic's Messages API, as the provider speaks it."""
