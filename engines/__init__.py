"""Adapters to the local engine and to providers; no policy, no database."""
