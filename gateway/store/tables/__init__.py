"""SQLAlchemy tables, a docstring per column."""
