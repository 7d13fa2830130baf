"""The spool: an append-only local file per worker, and the drainer that moves it into the ledger."""
