"""Real PostgreSQL and Redis from wheels, run privately on local sockets for one machine."""
