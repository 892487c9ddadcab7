"""YAML of preset files: one small document of plain data, with the line of every field.

Refused are duplicate keys, keys that are not text, anchors and aliases (a few lines of them unfold into gigabytes),
tags, deep nesting and large files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Loc: TypeAlias = tuple[str | int, ...]
_STR = "tag:yaml.org,2002:str"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(ValueError):
    """What is wrong with a document, and in which line (counted from 1) where that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


class Document(NamedTuple):
    """The mapping that a file holds, and the line of each field in it, by its path."""

    data: Mapping[str, Any]
    lines: Mapping[Loc, int]

    def line_of(self, loc: Loc) -> int | None:
        """The line of a field, or of the nearest thing around it."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc)


class _Loader(_Base):  # type: ignore[misc]  # its base is chosen at run time
    """Dates stay text: a preset has none, and JSON neither."""


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def read_document(path: Path) -> Document:
    """Read a YAML file that holds one mapping. Raises BadYaml, OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise BadYaml(f"is larger than {MAX_BYTES // 1024} KiB")
    try:
        return parse_document(content.decode())
    except UnicodeDecodeError as error:
        raise BadYaml(f"is not UTF-8: {error.reason} at byte {error.start}") from error


def parse_document(text: str) -> Document:
    """Parse the text of one mapping. Raises BadYaml."""
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise BadYaml("holds no mapping of keys to values")
            lines: dict[Loc, int] = {}
            _check_node(node, (), lines)
            return Document(loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise BadYaml(f"is not valid YAML: {said}", _line(mark)) from error


def _check_events(text: str) -> None:
    """Refuse, before anything is built from it, what would be expensive to build."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise BadYaml("uses anchors or aliases (& and *), which presets do not have", _line(event.start_mark))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadYaml(f"is nested more than {MAX_DEPTH} levels deep", _line(event.start_mark))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(mark: Any) -> int | None:
    return None if mark is None else int(mark.line) + 1


def _check_node(node: yaml.Node, loc: Loc, lines: dict[Loc, int]) -> None:
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                raise BadYaml(f"has the key {key.value!s:.40}, which is not text: put quotes around it", line)
            here = (*loc, key.value)
            if here in lines:
                raise BadYaml(f"names the key {key.value!r} twice (first in line {lines[here]})", line)
            lines[here] = line
            _check_node(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_node(item, (*loc, index), lines)
    elif node.tag not in _PLAIN:
        raise BadYaml(f"uses the tag {node.tag!r}: only plain data is read", _line(node.start_mark))
