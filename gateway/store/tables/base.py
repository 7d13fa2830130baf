"""The one collection of tables, in the schema `gateway`, and how its constraints are named.

Names follow from tables and columns, so that a migration can refer to each of them.
"""

from __future__ import annotations

from sqlalchemy import MetaData

SCHEMA = "gateway"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    },
)
