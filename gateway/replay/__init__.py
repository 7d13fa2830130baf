"""Policies tried on what has happened."""
