"""Where a key stands in a YAML file, and what is wrong with its value: file, line, key, value, what is allowed.

The shape comes from a pydantic model, the lines from the file's own text. Nothing is read from disk here, and a
value is quoted only where the caller says that it may be: elsewhere it could be somebody's address or a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

# libyaml's is ten times as fast; some builds of PyYAML have none.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Key = tuple[str, ...]  # of a list's items: their position as text


class Loader(_SafeLoader):
    """Safe YAML in which a key stands once: of two, YAML itself would forget the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no key that any of our files knows: YAML itself says so below
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice, in lines {seen[key.value]} and {line}"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


def load(text: str, *, forgiving: bool = False) -> Any:
    """The content of a YAML text; yaml.YAMLError when it is none, or has a key twice.

    `forgiving`: of a key that stands twice the last counts, for who looks for further problems.
    """
    return yaml.load(text, Loader=_SafeLoader if forgiving else Loader)


@dataclass(frozen=True)
class Place:
    """A line, counted from 1, and the comment that stands beside the value or its nearest section."""

    line: int
    comment: str


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file."""

    file: str
    key: str
    reason: str
    line: int | None = None
    value: str | None = None
    allowed: str | None = None

    def __str__(self) -> str:
        line = f" line {self.line}:" if self.line else ""
        key = f" key {self.key!r}:" if self.key else ""
        found = f"; found {self.value}" if self.value is not None else ""
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.file}:{line}{key} {self.reason}{found}{allowed}"


# What libyaml and PyYAML say, and what a person has mostly done.
_SLIPS = {
    "mapping values are not allowed": "is the ':' missing in the line above, or this line indented too far?",
    "did not find expected key": "is this line, or the one above, indented otherwise than its neighbours?",
    "expected <block end>": "is this line, or the one above, indented otherwise than its neighbours?",
    "unexpected end of stream": "is a quote or a bracket opened above and not closed?",
}


def unreadable(file: str, error: Exception, text: str) -> Problem:
    """Why a file is no YAML: the line, and what is mostly wrong there. `text`: of the file, empty where it is none."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = " ".join(str(getattr(error, "problem", None) or error).split())
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if line.lstrip(" ").startswith("\t"):
        said = "the line is indented with a tab: YAML takes spaces only"
    slip = next((f"; {slip}" for words, slip in _SLIPS.items() if words in said), "")
    return Problem(file, "", f"not readable as YAML: {said}{slip}", mark.line + 1 if mark else None)


_COMMENT_AFTER = re.compile(r"[\s,\]}]*#\s*(.*)")
_COMMENT_OF_SECTION = re.compile(r"\s*:\s*#\s*(.*)")


class Places:
    """The places of all keys of a YAML text that can be read."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._places: dict[Key, Place] = {}
        self.twice: dict[Key, tuple[int, int]] = {}  # keys that stand twice in their section: both lines
        root = yaml.compose(text, Loader=_SafeLoader)
        if root is not None:
            self._walk(root, (), "")

    def _comment(self, pattern: re.Pattern[str], mark: yaml.Mark) -> str:
        rest = self._lines[mark.line][mark.column :] if mark.line < len(self._lines) else ""
        found = pattern.fullmatch(rest)
        return found[1].strip() if found else ""

    def _walk(self, node: yaml.Node, key: Key, comment: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                before = self._places.get((*key, str(name.value)))
                if before:
                    self.twice[(*key, str(name.value))] = (before.line, name.start_mark.line + 1)
                # Where a block ends is where the next one begins: what stands there is another's comment.
                own = "" if _is_block(value) else self._comment(_COMMENT_AFTER, value.end_mark)
                own = own or self._comment(_COMMENT_OF_SECTION, name.end_mark) or comment
                self._places[(*key, str(name.value))] = Place(name.start_mark.line + 1, own)
                self._walk(value, (*key, str(name.value)), own)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                own = "" if _is_block(value) else self._comment(_COMMENT_AFTER, value.end_mark)
                self._places[(*key, str(number))] = Place(value.start_mark.line + 1, own or comment)
                self._walk(value, (*key, str(number)), own or comment)

    def get(self, key: Key) -> Place | None:
        """Where exactly this key stands; None when the file does not have it."""
        return self._places.get(key)

    def nearest(self, key: Key) -> Place | None:
        """Where the key, or the innermost of its sections that the file has, stands."""
        return next((self._places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._places), None)


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def flatten(values: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """The single values of nested mappings with their keys; a list, or an empty mapping, is one value."""
    if isinstance(values, Mapping) and (values or not key):
        for name, value in values.items():
            yield from flatten(value, (*key, str(name)))
    else:
        yield key, values


def shown(value: Any) -> str:
    """A value as it may be written in YAML, on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


class Shape:
    """What a model allows, key by key, in words."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._schema = model.model_json_schema()

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            node = self._schema["$defs"][node["$ref"].rpartition("/")[2]]
        return node

    def node(self, key: Key) -> Mapping[str, Any] | None:
        """The schema of a key's value; None when the model does not know the key."""
        node: Mapping[str, Any] = self._schema
        for part in key:
            node = self._resolved(node)
            options = [self._resolved(option) for option in node.get("anyOf", [node])]
            node = next((option for option in options if option.get("type") != "null"), node)
            below = node.get("properties", {}).get(part) or node.get("additionalProperties") or node.get("items")
            if not isinstance(below, Mapping):
                return None
            node = below
        return self._resolved(node)

    def names(self, key: Key) -> list[str]:
        """The keys that a section knows; none where any is allowed."""
        node = self.node(key) or {}
        return [*node.get("properties", {}), *node.get("propertyNames", {}).get("enum", [])]

    def leaves(self) -> list[Key]:
        """Every key that holds a single value."""

        def walk(node: Mapping[str, Any], key: Key) -> Iterator[Key]:
            below = self._resolved(node).get("properties")
            if not below:
                yield key
            for name, value in (below or {}).items():
                yield from walk(value, (*key, name))

        return list(walk(self._schema, ()))

    def relation(self, key: Key) -> str:
        """What must hold between the values of a section."""
        return str((self.node(key) or {}).get("relation", ""))

    def allowed(self, key: Key) -> str:
        """The range of a value in words, with what its section asks of it."""
        node = self.node(key)
        if node is None:
            return ""
        within = self.relation(key[:-1])
        mentioned = [name for name in self.names(key[:-1]) if name in within]
        if mentioned and key[-1] not in mentioned:
            within = ""  # it is about others of the section
        return "; ".join(text for text in (self._words(node), within) if text)

    def _words(self, node: Mapping[str, Any]) -> str:
        node = self._resolved(node)
        if "anyOf" in node:
            return " or ".join(self._words(option) for option in node["anyOf"])
        if "enum" in node:
            return f"one of {', '.join(map(str, node['enum']))}"
        kind = node.get("type")
        if kind in ("integer", "number"):
            return " ".join(["a whole number" if kind == "integer" else "a number", *_range(node)])
        if kind == "array":
            counts = _range({"minimum": node.get("minItems"), "maximum": node.get("maxItems")})
            if node.get("minItems") == node.get("maxItems") and counts:
                counts = [f"of {node['minItems']}"]
            return " ".join(["a list", *counts, "each", self._words(node.get("items", {}))])
        if kind == "object":
            if node.get("additionalProperties"):
                return f"a mapping, each {self._words(node['additionalProperties'])}"
            return f"a mapping of {', '.join(node.get('properties', {}))}"
        if kind == "string":
            return f"a text matching {node['pattern']}" if "pattern" in node else "a text"
        return {"boolean": "true or false", "null": "null"}.get(str(kind), "anything")


def _range(node: Mapping[str, Any]) -> list[str]:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return [f"{low:g}..{high:g}"]
    ends = {"at least": low, "above": above, "at most": high, "below": below}
    said = [f"{word} {end:g}" for word, end in ends.items() if end is not None]
    return [", ".join(said)] if said else []


def _suggestion(shape: Shape, key: Key) -> str:
    """`; did you mean …?` for a key that nobody knows: a neighbour by its name, else a key elsewhere."""
    from rapidfuzz import fuzz, process

    first, dot, _ = key[-1].partition(".")
    if dot and shape.node((*key[:-1], first)) is not None:
        sections = ": {".join(key[-1].split("."))
        return f"; sections are written one in the other: {sections}: …{'}' * key[-1].count('.')}"
    near = process.extractOne(key[-1], shape.names(key[:-1]), scorer=fuzz.ratio, score_cutoff=60)
    if near:
        return f"; did you mean {near[0]!r}?"
    elsewhere = [leaf for leaf in shape.leaves() if leaf[-1:] == key[-1:]]
    return f"; did you mean {'.'.join(elsewhere[0])!r}?" if elsewhere else ""


# pydantic's names for a section that is none.
_NO_SECTION = ("dict_type", "model_type", "model_attributes_type")
_NUMBER_OF_PEOPLE = re.compile(r"\s*([+-]?\d+)(?:[.,](\d+))?\s*(%?)\s*")


def _meant(value: Any, node: Mapping[str, Any]) -> str:
    """What was meant by a number with a comma, percent sign or quotes, or by a word like NO; empty: not known."""
    wanted = node.get("type")
    if isinstance(value, bool) and wanted == "string":
        return "; YAML takes yes, no, on and off for true or false: put the word in quotes"
    found = _NUMBER_OF_PEOPLE.fullmatch(value) if isinstance(value, str) and wanted in ("integer", "number") else None
    if not found:
        return ""
    number = float(f"{found[1]}.{found[2] or 0}")
    return f"; did you mean {number / 100 if found[3] and node.get('maximum') == 1 else number:g}?"


def keys_twice(file: str, places: Places) -> list[Problem]:
    """A problem per key that stands twice in its section."""
    return [
        Problem(file, ".".join(key), f"this key stands in line {first} already: of two, only one can count", line)
        for key, (first, line) in places.twice.items()
    ]


def problems(
    error: ValidationError, model: type[BaseModel], file: str, places: Places, below: Key = (), show_values: bool = True
) -> list[Problem]:
    """What a model refused, each with its place in the file. `below`: the section of the file that was looked at."""
    shape = Shape(model)
    found = []
    for refused in error.errors():
        key = tuple(str(part) for part in refused["loc"])
        is_key = key[-1:] == ("[key]",)
        key = key[:-1] if is_key else key
        place, kind = places.nearest((*below, *key)), refused["type"]
        name, line = ".".join((*below, *key)), place.line if place else None
        if kind == "extra_forbidden" or (is_key and kind == "literal_error"):
            known = shape.names(key[:-1])
            allowed = f"one of {', '.join(known)}" if is_key else None
            found.append(Problem(file, name, f"unknown key{_suggestion(shape, key)}", line, None, allowed))
        elif kind == "missing":
            found.append(Problem(file, name, "this key is required and missing", line))
        elif kind == "relation":
            found.append(Problem(file, name, refused["msg"], line))
        elif kind in _NO_SECTION and refused["input"] is None:
            todo = "write its keys below it, indented further, or delete the line"
            found.append(Problem(file, name, f"nothing stands in this section: {todo}", line))
        elif kind in _NO_SECTION and not show_values:
            found.append(Problem(file, name, "a section is expected, with keys of its own below it", line))
        elif show_values:
            value = shown(refused["input"])
            found.append(
                Problem(
                    file, name,
                    refused["msg"] if kind == "pattern" else "not allowed",
                    line,
                    value if len(value) <= 80 else value[:77] + "…",
                    None if kind == "pattern" else shape.allowed(key) + _meant(refused["input"], shape.node(key) or {}),
                )
            )  # fmt: skip
        else:
            found.append(Problem(file, name, refused["msg"].removeprefix("Value error, "), line))
    return list(dict.fromkeys(found))  # what is wrong as key and as value is said once
