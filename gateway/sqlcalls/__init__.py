"""Calls to models from SQL: claimed from their queue, carried along the line, answered."""
