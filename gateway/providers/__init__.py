"""Providers of models as this deployment calls them: the adapter of each, its credential, and where it may connect."""
