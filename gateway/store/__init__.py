"""PostgreSQL: each file implements one port and returns policies' values, never rows."""
