"""What happened that somebody wants to be told of: found in the ledger, sent by webhooks."""
