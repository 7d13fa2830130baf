"""Who may ask: principals, groups, memberships, roles, API keys, and whose tokens are taken, version by version.

No secret can be read from any of these tables: of a key they hold an id and a digest that needs the pepper, of an
issuer's shared secret what the master key has sealed.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from gateway.store.tables.base import metadata
from gateway.store.tables.versioned import current_unique, one_of, versioned

principals = versioned(
    "principals",
    Column("kind", Text, nullable=False, comment="`user` or `service_principal`."),
    Column(
        "name",
        Text,
        nullable=False,
        comment="How others refer to it: a user's login or e-mail, a machine's name.",
    ),
    Column("display_name", Text, nullable=False, server_default="", comment="Name for people to read."),
    Column("email", Text, comment="Address of a user, where known."),
    Column(
        "active",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="Nothing of an inactive one is accepted.",
    ),
    Column("tokens_not_before", DateTime(timezone=True), comment="JWTs issued earlier are refused."),
    Column("issuer", Text, comment="OIDC issuer that it is known to, exactly as in its tokens."),
    Column("subject", Text, comment="`sub` of that issuer's tokens."),
    one_of("kind", "user", "service_principal"),
    CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name="subject_has_an_issuer"),
    current_unique("principals_name", "lower(name)"),
    current_unique("principals_subject", "issuer", "subject"),
    comment="Users and service principals.",
)

groups = versioned(
    "groups",
    Column("name", Text, nullable=False, comment="Unique among groups, whatever the case."),
    Column("description", Text, nullable=False, server_default="", comment="What the group is for."),
    Column(
        "local_only",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Requests of its members never leave for another host.",
    ),
    current_unique("groups_name", "lower(name)"),
    comment="Groups of principals and of other groups.",
)

memberships = versioned(
    "memberships",
    Column("group_id", UUID(as_uuid=False), nullable=False, comment="The group."),
    Column("member_kind", Text, nullable=False, comment="`user`, `service_principal` or `group`."),
    Column("member_id", UUID(as_uuid=False), nullable=False, comment="The principal or nested group in it."),
    one_of("member_kind", "user", "service_principal", "group"),
    CheckConstraint("group_id <> member_id", name="no_group_is_in_itself"),
    current_unique("memberships_member", "group_id", "member_id"),
    Index("ix_memberships_member", "member_id", postgresql_where=text("to_change IS NULL")),
    comment="Who is directly in which group; cycles are refused when they are made.",
)

roles = versioned(
    "roles",
    Column("role", Text, nullable=False, comment="`admin`, `auditor` or `group_manager`."),
    Column("grantee_kind", Text, nullable=False, comment="`user`, `service_principal` or `group`."),
    Column("grantee_id", UUID(as_uuid=False), nullable=False, comment="Who has the role."),
    Column(
        "group_id",
        UUID(as_uuid=False),
        comment="The group that a group manager manages; null for other roles.",
    ),
    Column("granted_by", UUID(as_uuid=False), comment="Principal that gave it; null for the first start."),
    one_of("role", "admin", "auditor", "group_manager"),
    one_of("grantee_kind", "user", "service_principal", "group"),
    CheckConstraint("(role = 'group_manager') = (group_id IS NOT NULL)", name="managers_have_a_group"),
    current_unique(
        "roles_grantee", "role", "grantee_id", "coalesce(group_id, '00000000-0000-0000-0000-000000000000')"
    ),
    comment="Roles of the control plane. Owning an endpoint is no role: it is CAN_MANAGE on it.",
)

api_keys = versioned(
    "api_keys",
    Column("principal_id", UUID(as_uuid=False), nullable=False, comment="Whose key it is."),
    Column("name", Text, nullable=False, server_default="", comment="What its owner calls it."),
    Column("id_part", Text, nullable=False, comment="The 12 public characters by which the key is found."),
    Column("digest", LargeBinary, nullable=False, comment="HMAC-SHA-256 of the whole key under the pepper."),
    Column(
        "pepper_version",
        SmallInteger,
        nullable=False,
        comment="Version of the pepper, which is kept outside the database.",
    ),
    Column(
        "expires_at",
        DateTime(timezone=True),
        comment="Not accepted from then on; null: never ends by itself.",
    ),
    Column(
        "endpoints",
        ARRAY(UUID(as_uuid=False)),
        comment="Endpoint ids it is confined to; null: no confinement.",
    ),
    Column("planes", ARRAY(Text), nullable=False, comment="Planes it may be used on: `data`, `control`."),
    Column(
        "priority",
        Text,
        nullable=False,
        server_default="interactive",
        comment="Of its calls: `interactive`, or `batch`, which gives way where limits are shared.",
    ),
    Column(
        "counts_as",
        UUID(as_uuid=False),
        comment="Key whose limits and budgets it shares: the first of its line; null: itself.",
    ),
    Column(
        "replaces",
        UUID(as_uuid=False),
        comment="Key that it was made to replace; both hold until the old one expires.",
    ),
    Column("revoked_at", DateTime(timezone=True), comment="Not accepted from then on, for good."),
    Column("created_at", DateTime(timezone=True), nullable=False, comment="When the key was made."),
    Column("created_by", UUID(as_uuid=False), comment="Principal that made it; null for the first start."),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_whole"),
    CheckConstraint(
        "planes <@ ARRAY['data', 'control'] AND cardinality(planes) > 0", name="planes_are_known"
    ),
    one_of("priority", "interactive", "batch"),
    current_unique("api_keys_id_part", "id_part"),
    # Sums of the ledger name keys as text.
    Index(
        "ix_api_keys_line",
        text("(id::text)"),
        postgresql_where=text("to_change IS NULL AND counts_as IS NOT NULL"),
    ),
    Index("ix_api_keys_principal", "principal_id", postgresql_where=text("to_change IS NULL")),
    comment="API keys; a principal may have several.",
)

api_key_uses = Table(
    "api_key_uses",
    metadata,
    Column("key_id", UUID(as_uuid=False), primary_key=True, comment="The key."),
    Column(
        "last_used_at",
        DateTime(timezone=True),
        nullable=False,
        comment="To the minute; written behind the requests.",
    ),
    comment="When each key was last used: apart from the keys, so that use makes no versions.",
)

issuers = versioned(
    "issuers",
    Column("name", Text, nullable=False, comment="What administrators call it."),
    Column("issuer", Text, nullable=False, comment="Exactly the `iss` of its tokens."),
    Column("audience", Text, nullable=False, comment="The value that `aud` of its tokens must hold."),
    Column("family", Text, nullable=False, comment="Kind of signatures: `RS`, `ES`, `EdDSA` or `HS`."),
    Column("jwks_uri", Text, comment="Where its public keys are published."),
    Column(
        "allow_loopback_http",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether jwks_uri may be plain http on this machine.",
    ),
    Column(
        "public_keys",
        JSONB(none_as_null=True),
        comment="Its public keys as a JWK set, where they are not published.",
    ),
    Column("secret_sealed", LargeBinary, comment="The shared secret of an HS issuer, sealed."),
    Column(
        "principal_claim",
        Text,
        nullable=False,
        server_default="sub",
        comment="The claim that says who it is, for good.",
    ),
    Column(
        "name_claim",
        Text,
        nullable=False,
        server_default="sub",
        comment="The claim that names a principal created on first use.",
    ),
    Column("groups_claim", Text, comment="The claim that lists groups by name; null: none."),
    Column(
        "kind",
        Text,
        nullable=False,
        server_default="user",
        comment="What its subjects are: `user` or `service_principal`.",
    ),
    Column(
        "create_principals",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether a principal is created on the first use of a subject.",
    ),
    Column(
        "replace_groups",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether claimed groups stand in for membership here, rather than add to it.",
    ),
    Column(
        "max_age_seconds",
        Integer,
        nullable=False,
        server_default="3600",
        comment="Seconds after its issue until when a token is taken.",
    ),
    Column(
        "leeway_seconds",
        Integer,
        nullable=False,
        server_default="30",
        comment="Seconds by which the issuer's clock may differ.",
    ),
    Column(
        "planes",
        ARRAY(Text),
        nullable=False,
        server_default="{data,control}",
        comment="Planes that its tokens may be used on: `data`, `control`.",
    ),
    Column(
        "enabled",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="Whether its tokens are taken.",
    ),
    one_of("family", "RS", "ES", "EdDSA", "HS"),
    one_of("kind", "user", "service_principal"),
    CheckConstraint("num_nonnulls(jwks_uri, public_keys, secret_sealed) = 1", name="keys_are_of_one_source"),
    CheckConstraint("(family = 'HS') = (secret_sealed IS NOT NULL)", name="only_hs_has_a_secret"),
    CheckConstraint("max_age_seconds BETWEEN 1 AND 3600", name="max_age_is_sane"),
    CheckConstraint("leeway_seconds BETWEEN 0 AND 30", name="leeway_is_sane"),
    CheckConstraint(
        "planes <@ ARRAY['data', 'control'] AND cardinality(planes) > 0", name="planes_are_known"
    ),
    current_unique("issuers_name", "lower(name)"),
    current_unique("issuers_issuer", "issuer"),
    comment="Issuers of tokens that are taken beside API keys.",
)

__all__ = ["api_key_uses", "api_keys", "groups", "issuers", "memberships", "principals", "roles"]
