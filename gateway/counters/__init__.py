"""Redis: every limit and budget of a request decided and settled atomically."""
