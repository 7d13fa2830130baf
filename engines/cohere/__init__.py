"""Cohere's API, version 2, as the provider speaks it."""
