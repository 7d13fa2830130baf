"""The script that installs ai_query() into a PostgreSQL, shipped as a file."""
