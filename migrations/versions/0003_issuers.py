"""Issuers of tokens that are taken beside API keys.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the table; the application adds versions and closes them, nothing else."""
    # One column a line.
    # fmt: off
    _versions(
        "issuers",
        sa.Column("name", sa.Text(), nullable=False, comment="What administrators call it."),
        sa.Column("issuer", sa.Text(), nullable=False, comment="Exactly the `iss` of its tokens."),
        sa.Column("audience", sa.Text(), nullable=False, comment="The value that `aud` of its tokens must hold."),
        sa.Column("family", sa.Text(), nullable=False, comment="Kind of signatures: `RS`, `ES`, `EdDSA` or `HS`."),
        sa.Column("jwks_uri", sa.Text(), nullable=True, comment="Where its public keys are published."),
        sa.Column("allow_loopback_http", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether jwks_uri may be plain http on this machine."),
        sa.Column("public_keys", JSONB(), nullable=True, comment="Its public keys as a JWK set, where they are not published."),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=True, comment="The shared secret of an HS issuer, sealed."),
        sa.Column("principal_claim", sa.Text(), server_default="sub", nullable=False, comment="The claim that says who it is, for good."),
        sa.Column("name_claim", sa.Text(), server_default="sub", nullable=False, comment="The claim that names a principal created on first use."),
        sa.Column("groups_claim", sa.Text(), nullable=True, comment="The claim that lists groups by name; null: none."),
        sa.Column("kind", sa.Text(), server_default="user", nullable=False, comment="What its subjects are: `user` or `service_principal`."),
        sa.Column("create_principals", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether a principal is created on the first use of a subject."),
        sa.Column("replace_groups", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether claimed groups stand in for membership here, rather than add to it."),
        sa.Column("max_age_seconds", sa.Integer(), server_default="3600", nullable=False, comment="Seconds after its issue until when a token is taken."),
        sa.Column("leeway_seconds", sa.Integer(), server_default="30", nullable=False, comment="Seconds by which the issuer's clock may differ."),
        sa.Column("planes", ARRAY(sa.Text()), server_default="{data,control}", nullable=False, comment="Planes that its tokens may be used on: `data`, `control`."),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Whether its tokens are taken."),
        sa.CheckConstraint("family IN ('RS', 'ES', 'EdDSA', 'HS')", name=op.f("ck_issuers_family_is_known")),
        sa.CheckConstraint("kind IN ('user', 'service_principal')", name=op.f("ck_issuers_kind_is_known")),
        sa.CheckConstraint("num_nonnulls(jwks_uri, public_keys, secret_sealed) = 1", name=op.f("ck_issuers_keys_are_of_one_source")),
        sa.CheckConstraint("(family = 'HS') = (secret_sealed IS NOT NULL)", name=op.f("ck_issuers_only_hs_has_a_secret")),
        sa.CheckConstraint("max_age_seconds BETWEEN 1 AND 3600", name=op.f("ck_issuers_max_age_is_sane")),
        sa.CheckConstraint("leeway_seconds BETWEEN 0 AND 30", name=op.f("ck_issuers_leeway_is_sane")),
        sa.CheckConstraint("planes <@ ARRAY['data', 'control'] AND cardinality(planes) > 0", name=op.f("ck_issuers_planes_are_known")),
        comment="Issuers of tokens that are taken beside API keys.",
    )
    op.create_index("uq_issuers_name", "issuers", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_index("uq_issuers_issuer", "issuers", [sa.text("issuer")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.issuers TO {APPLICATION}")
    _say_who_stops("`client`, `limit`, `revoked`, `upstream` or `shutdown`; null for an ordinary end.")


def downgrade() -> None:
    """Drop the table: tokens of other issuers are no longer taken."""
    op.drop_table("issuers", schema=SCHEMA)
    _say_who_stops("`client`, `limit`, `upstream` or `shutdown`; null for an ordinary end.")


def _say_who_stops(comment: str) -> None:
    """A call whose caller is no longer welcome is cut, and its row says so."""
    op.execute(f"COMMENT ON COLUMN {SCHEMA}.requests.stopped_by IS '{comment}'")


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
