"""YAML without its surprises: safe types only, no key twice, and nothing that looks like text becomes something else.

`no` is a word, `0.50` keeps its digits and a moment stays as it was written; only true, false, null and whole
numbers are more than text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_LARGEST = 1 << 20


class YamlProblem(ValueError):
    """The text is no document; says where."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way; filled below

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuses a key that is written twice, before merges are resolved."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlProblem(f"{_place(key.start_mark)}: a key is a plain word.")
            if key.value in seen:
                raise YamlProblem(f"{_place(key.start_mark)}: the key {key.value!r} is there twice.")
            seen.add(key.value)
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("null", r"~|null|", ["~", "n", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def load(text: str) -> dict[str, Any]:
    """The document in the text; raises YamlProblem."""
    if len(text) > _LARGEST:
        raise YamlProblem(f"The file is over {_LARGEST >> 20} MiB; divide it into several.")
    try:
        found = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with fewer types still
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        raise YamlProblem(f"{_place(where)}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise error if isinstance(error, YamlProblem) else YamlProblem(f"{error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise YamlProblem("line 1: a file begins with sections such as `groups:` and `endpoints:`.")
    return found


def dump(document: dict[str, Any]) -> str:
    """The document as text that `load` reads back."""
    return yaml.dump(document, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)


class _Writer(yaml.SafeDumper):
    """Writes texts with line separators of other alphabets in double quotes: plain ones would be folded."""


def _text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(each in text for each in "\x85\u2028\u2029\ufeff") else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _text)


def _place(mark: yaml.Mark | None) -> str:
    return "the file" if mark is None else f"line {mark.line + 1}"
