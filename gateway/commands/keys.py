"""API keys, through the running gateway."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys, through the running gateway."""


@keys.command("create")
@click.argument("principal")
@click.option("--name", default="", help="What to call the key.")
@click.option(
    "--expires", metavar="SPAN", help="When it ends: a number and m, h, d or w, such as 90d (default: never)."
)
@click.option("--endpoint", "endpoints", multiple=True, help="Confine it to this endpoint; may be repeated.")
@click.option(
    "--plane",
    "planes",
    multiple=True,
    type=click.Choice(["data", "control"]),
    help="Planes it is for (default: both).",
)
@click.option("--batch", is_flag=True, help="For batch work, which gives way where a limit is shared.")
@click.option("--replaces", metavar="KEY", help="Key that it takes over from, by id or beginning.")
@click.option(
    "--overlap", metavar="SPAN", help="How long the replaced key still works (default: not at all)."
)
@ADMIN_KEY
def keys_create(
    principal: str,
    name: str,
    expires: str | None,
    endpoints: tuple[str, ...],
    planes: tuple[str, ...],
    batch: bool,
    replaces: str | None,
    overlap: str | None,
    admin_key: Path | None,
) -> None:
    """Make a key of PRINCIPAL, a user or service principal. It is printed once and kept nowhere."""
    from gateway.cli.keys import create
    from gateway.cli.reach import AdminApi

    chosen = settings()
    text, details = guarded(
        lambda: create(
            AdminApi(chosen, admin_key),
            principal,
            name=name,
            expires=expires,
            endpoints=endpoints,
            planes=planes,
            batch=batch,
            replaces=replaces,
            overlap=overlap,
        )
    )
    click.echo(text)
    click.echo(f"Key {details['id']} of {principal}. Keep it now: it cannot be shown again.", err=True)


@keys.command("list")
@click.argument("principal", required=False)
@ADMIN_KEY
def keys_list(principal: str | None, admin_key: Path | None) -> None:
    """List keys, of PRINCIPAL or of all."""
    from gateway.cli.keys import condition, listed
    from gateway.cli.reach import AdminApi

    chosen = settings()
    found = guarded(lambda: listed(AdminApi(chosen, admin_key), principal))
    for key, owner in found:
        ends = f"until {key['expires_at'][:16]}" if key["expires_at"] else ""
        used = f"used {key['last_used_at'][:16]}" if key["last_used_at"] else "not used yet"
        fields = [
            key["id"],
            key["prefix"] + "...",
            f"{condition(key):<8}",
            f"{owner:<16}",
            key["name"],
            ends,
            used,
        ]
        click.echo("  ".join(field for field in fields if field))


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap",
    metavar="SPAN",
    default="24h",
    show_default=True,
    help="How long the old key still works: a number and m, h, d or w, or 0 for not at all.",
)
@ADMIN_KEY
def keys_rotate(key: str, overlap: str, admin_key: Path | None) -> None:
    """Make a key like KEY (its id, or how it begins) that takes over from it. It is printed once and kept nowhere.

    The new key has the name, scopes, priority and lifetime of the old one and shares its limits and budgets.
    """
    from gateway.cli.keys import rotate
    from gateway.cli.reach import AdminApi

    chosen = settings()
    text, details, replaced = guarded(lambda: rotate(AdminApi(chosen, admin_key), key, overlap=overlap))
    click.echo(text)
    click.echo(
        f"Key {details['id']} takes over from {replaced['prefix']}..., which works until {replaced['expires_at'][:16]}."
        " Keep the new one now: it cannot be shown again.",
        err=True,
    )


@keys.command("revoke")
@click.argument("key")
@ADMIN_KEY
def keys_revoke(key: str, admin_key: Path | None) -> None:
    """Revoke KEY (its id, or how it begins), for good; every worker refuses it within a second."""
    from gateway.cli.keys import revoke
    from gateway.cli.reach import AdminApi

    chosen = settings()
    gone = guarded(lambda: revoke(AdminApi(chosen, admin_key), key))
    click.echo(f"Revoked {gone['prefix']}... ({gone['id']}).")
