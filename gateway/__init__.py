"""Weighbridge's HTTP service, its persistence and its wiring."""
