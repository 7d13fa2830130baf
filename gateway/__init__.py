"""Weighbridge's HTTP service, its persistence and its wiring."""

__version__ = "0.1.0"
