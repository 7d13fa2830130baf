"""Our own HTTP/1.1 client for upstreams, on httptools: a keep-alive pool, one call a connection, no retries."""
