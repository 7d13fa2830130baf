"""Commands that talk to a running deployment: its admin API, its database, its spools."""
