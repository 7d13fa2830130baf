"""`weighbridge diff`, `apply` and `export`: files that declare objects, through the running gateway's admin API.

Whatever is shown is what the gateway planned; applying carries out that plan or nothing.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from gateway.cli.reach import AdminApi, CannotReach
from gateway.declarative.yaml_text import YamlProblem, dump, load

_MARKS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "adopt": ("=", "cyan"),
    "delete": ("-", "red"),
    "release": ("-", "red"),
    "leave": ("?", "dim"),
}
_DONE = {
    "create": "to create", "update": "to change", "adopt": "to take over", "delete": "to delete",
    "release": "to let go", "leave": "no longer in the file (--prune deletes them)", "unchanged": "unchanged",
}  # fmt: skip
_WIDEST = 100
_HEADER = """\
# Written by `weighbridge export`. Compare: weighbridge diff -f FILE. Apply: weighbridge apply -f FILE.
# What is applied from here becomes read-only elsewhere. An object is declared whole: what is left out has its default.
"""


def diff(api: AdminApi, path: Path, *, prune: bool) -> int:
    """Show the plan; 2 where it makes a difference, else 0."""
    plan = _planned(api, read_file(path), prune)
    show(plan)
    return 2 if plan["differs"] else 0


def apply(api: AdminApi, path: Path, *, prune: bool, yes: bool) -> int:
    """Show the plan, ask, and carry it out; 1 where the answer was no."""
    body = read_file(path)
    plan = _planned(api, body, prune)
    show(plan)
    idle = all(each["action"] in ("unchanged", "leave") for each in plan["steps"])
    if not idle and not yes:
        if not sys.stdin.isatty():
            raise CannotReach(
                "Nothing was changed: there is nobody to ask. Pass --yes to apply without asking."
            )
        if not click.confirm("Apply?"):
            click.echo("Nothing was changed.")
            return 1
    api.post("/declarations:apply", {**body, "prune": prune, "plan": plan["plan"]})
    click.echo("Nothing to do." if idle else f"Applied {plan['file']}.")
    return 0


def export(api: AdminApi, path: Path | None, *, everything: bool) -> None:
    """Write what is there to the file, or to the standard output."""
    found = api.get(
        "/declarations:export",
        file=None if path is None else path.name,
        everything="true" if everything else None,
    )
    left_out = "".join(f"# Left out: {each}.\n" for each in found["left_out"])
    text = f"{_HEADER}{left_out}\n{dump(found['document'])}"
    if path is None:
        click.echo(text, nl=False)
    else:
        path.write_text(text, encoding="utf-8")
        click.echo(f"Wrote {path}.", err=True)


def show(plan: Any) -> None:
    """Print a plan for people, in colour where there is any."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    counts: dict[str, int] = {}
    for step in plan["steps"]:
        action = step["action"]
        counts[action] = counts.get(action, 0) + 1
        if action == "unchanged" and not step["drift"]:
            continue
        mark, style = _MARKS.get(action, (" ", ""))
        note = {"adopt": "  (as declared; the file takes it over)", "release": "  (stays in the books)"}.get(
            action, ""
        )
        if step["drifted_away"]:
            note = "  (was deleted elsewhere)"
        console.print(Text(f"{mark} {step['kind'].replace('_', ' ')} {_one_line(step['name'])}{note}", style))
        if action == "update":
            for each in step["differences"]:
                console.print(
                    Text(f"    {each['field']}: {_short(each['before'])} -> {_short(each['after'])}", style)
                )
        for each in step["drift"]:
            console.print(
                Text(
                    f"    ! drift: {each['field']} was applied as {_short(each['before'])}, is {_short(each['after'])}",
                    "magenta",
                )
            )
    summary = ", ".join(f"{counts[action]} {word}" for action, word in _DONE.items() if action in counts)
    console.print(f"{plan['file']}: {summary or 'declares nothing'}.")


def _planned(api: AdminApi, body: dict[str, Any], prune: bool) -> Any:
    return api.post(
        "/declarations:plan", {"file": body["file"], "document": body["document"], "prune": prune}
    )


def read_file(path: Path) -> dict[str, Any]:
    """The file as the API takes it; raises CannotReach."""
    try:
        content = path.read_bytes()
        document = load(content.decode())
    except OSError as exc:
        raise CannotReach(f"{path} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise CannotReach(f"{path} is not UTF-8.") from exc
    except YamlProblem as exc:
        raise CannotReach(f"{path}, {exc}") from exc
    return {"file": path.name, "sha256": sha256(content).hexdigest(), "document": document}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
