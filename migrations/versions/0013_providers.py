"""Providers of models, and their credentials.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SCHEMA = "gateway"


APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the tables; versions are only added and closed, secrets are also erased."""
    # One column a line.
    # fmt: off
    _versions(
        "providers",
        sa.Column("name", sa.Text(), nullable=False, comment="What administrators call it."),
        sa.Column("provider", sa.Text(), nullable=False, comment="Whose it is: `openai`, `anthropic`, ..."),
        sa.Column("base_url", sa.Text(), nullable=False, comment="Where it is; its credential goes nowhere else."),
        sa.Column("source", sa.Text(), server_default="none", nullable=False, comment="Where the credential is: `none`, `stored` (sealed, here), `environment` or `file`."),
        sa.Column("reference", sa.Text(), nullable=True, comment="Name of the variable or of the file that holds the credential."),
        sa.Column("hint", sa.Text(), nullable=True, comment="The last four characters of the stored credential."),
        sa.Column("credential_version", sa.Integer(), server_default="0", nullable=False, comment="Counts up with each stored credential."),
        sa.CheckConstraint("source IN ('none', 'stored', 'environment', 'file')", name=op.f("ck_providers_source_is_known")),
        sa.CheckConstraint("(reference IS NOT NULL) = (source IN ('environment', 'file'))", name=op.f("ck_providers_references_what_is_elsewhere")),
        comment="Providers of models, with the place of their credentials.",
    )
    op.create_index("uq_providers_name", "providers", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_table(
        "provider_secrets",
        sa.Column("provider_id", sa.UUID(), nullable=False, comment="The provider."),
        sa.Column("version", sa.Integer(), nullable=False, comment="Counts up; the highest is told first."),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False, comment="The credential, sealed for this provider's address."),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True, comment="When it ceases to count; null: until it is rotated or erased."),
        sa.PrimaryKeyConstraint("provider_id", "version", name=op.f("pk_provider_secrets")),
        schema=SCHEMA,
        comment="Credentials of providers, sealed; at most two versions of each.",
    )
    # fmt: on
    # An entity's address may be that of its provider, or the one that everybody knows.
    op.drop_constraint(
        "ck_served_entities_external_engines_have_an_address", "served_entities", schema=SCHEMA
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.providers TO {APPLICATION}")
    op.execute(
        f"GRANT SELECT, INSERT, DELETE, UPDATE (ends_at) ON {SCHEMA}.provider_secrets TO {APPLICATION}"
    )


def downgrade() -> None:
    """Drop the tables; the credentials go with them. Entities without an address stay as they are."""
    for table in ("provider_secrets", "providers"):
        op.drop_table(table, schema=SCHEMA)
    op.execute(
        f"ALTER TABLE {SCHEMA}.served_entities ADD CONSTRAINT ck_served_entities_external_engines_have_an_address"
        " CHECK (kind = 'local' OR base_url IS NOT NULL OR provider <> 'vllm') NOT VALID"
    )


def _versions(name: str, *items: sa.Column[object] | sa.Constraint, comment: str) -> None:
    """A table whose rows are versions of objects, closed once and never edited."""
    op.create_table(
        name,
        sa.Column(
            "id", sa.UUID(), nullable=False, comment="The object, the same in all its versions (UUIDv7)."
        ),
        sa.Column(
            "from_change",
            sa.BigInteger(),
            nullable=False,
            comment="Configuration change that made this version.",
        ),
        sa.Column(
            "to_change", sa.BigInteger(), comment="Configuration change that ended it; null while current."
        ),
        sa.Column(
            "valid_from",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When this version began to hold.",
        ),
        sa.Column(
            "valid_to", sa.DateTime(timezone=True), comment="When it ceased to hold; null while current."
        ),
        sa.Column(
            "managed_by",
            sa.Text(),
            comment="Name of the declarative file that owns the object, which is read-only elsewhere; null: nobody.",
        ),
        *items,
        sa.PrimaryKeyConstraint("id", "from_change", name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["from_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_from_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["to_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_to_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("(to_change IS NULL) = (valid_to IS NULL)", name=f"ck_{name}_ends_once"),
        sa.CheckConstraint("to_change > from_change", name=f"ck_{name}_ends_after_it_began"),
        schema=SCHEMA,
        comment=comment,
    )
    current = sa.text("to_change IS NULL")
    op.create_index(f"uq_{name}_current", name, ["id"], unique=True, schema=SCHEMA, postgresql_where=current)
    op.create_index(f"ix_{name}_versions", name, ["from_change", "to_change"], schema=SCHEMA)
    op.execute(
        f"CREATE TRIGGER closed_once BEFORE UPDATE ON {SCHEMA}.{name} FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.versions_are_closed_once()"
    )
