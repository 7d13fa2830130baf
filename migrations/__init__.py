"""The schema's history: one reversible idea a revision, applied by gateway.store.migrate."""
