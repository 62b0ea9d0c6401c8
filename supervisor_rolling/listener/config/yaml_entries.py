"""YAML as entries that know their file, line and path, and that collect problems instead of stopping at the first.

PyYAML's loading forgets the lines, keeps the last of two equal keys, and takes ``010`` for 8 and ``1:30`` for 90. So
this reads the nodes below it. A *reader* is a function that takes an ``Entry`` and returns a value, or raises
``InvalidError`` after it has added a problem to the ``Document``. Anchors, aliases and merge keys (``<<``) work; what
they can multiply is bounded.

The parser is PyYAML's in Python. libyaml's is ten times as fast, and dies of SIGSEGV on 200000 opening brackets.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, TypeVar, Union

import yaml
from yaml.reader import ReaderError

from supervisor_rolling.core.errors import ConfigError

T = TypeVar("T")

MAX_CHARACTERS = 128 * 1024  # a thousand processes take 20 KB; this much takes the parser one to three seconds
MAX_VALUES = 20_000  # what aliases and merge keys may unfold to: as much as such a file holds without them
MAX_MERGE_DEPTH = 20  # mappings that merge each other in a row: more than a person can follow

_TAG = "tag:yaml.org,2002:"
_KINDS = {
    _TAG + "bool": "true or false",  # yes, no, on, off are too
    _TAG + "int": "a number",
    _TAG + "float": "a number",
    _TAG + "str": "text",
    _TAG + "timestamp": "a date",
    _TAG + "seq": "a list",
    _TAG + "map": "a mapping",
}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,3})?")
_SURROGATE = re.compile("[\ud800-\udfff]")

_SYNTAX_FIXES = {  # a piece of the parser's message: what to do
    "unknown escape character": r"put a regex in single quotes: 'app-(\d+)'",
    "'\\t'": "indent with spaces, not tabs",
    "cannot start any token": "put the value in quotes",
    "undefined alias": "put a value that begins with * in quotes",
    "single document": "keep one document: no second ---",
}
_ANY_SYNTAX_FIX = "check the indentation, colons and quotes here and in the line above"


class InvalidError(Exception):
    """A value is invalid; the document has the problem."""


KeyPath = tuple[Union[str, int], ...]
"""Where a value stands: the keys as they are written, and the places in lists."""


class Problem(NamedTuple):
    """A mistake in the file; ``text`` is the whole message."""

    line: int
    path: KeyPath
    text: str


@dataclass
class Document:
    """A file that is being read."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    values_left: int = MAX_VALUES

    def wrong(self, line: int, path: KeyPath, what: str, fix: str = "") -> InvalidError:
        """Add a problem. Returns the error, for a reader that cannot go on to raise."""
        text = f"{self.file}:{line}: {_written(path) or 'the file'}: {what}{fix and f'. Fix: {fix}'}"
        self.problems.append(Problem(line, path, text))
        return InvalidError(text)

    def spend(self, line: int) -> bool:
        """Whether one more value may be read. The first that may not is a problem."""
        self.values_left -= 1
        if self.values_left == -1:
            self.wrong(line, (), f"has more than {MAX_VALUES} values once aliases are expanded", "use fewer aliases")
        return self.values_left >= 0


@dataclass(frozen=True)
class Entry:
    """A value of the file and where it stands."""

    document: Document
    node: yaml.Node
    key_line: int  # the line of its key
    name: str = ""  # its key as it is written
    path: KeyPath = ()

    @property
    def line(self) -> int:
        """Where to point to: a scalar itself (an alias leads to its anchor), the key of anything larger."""
        return _line(self.node) if isinstance(self.node, yaml.ScalarNode) else self.key_line

    @property
    def shown(self) -> str:
        """The value in quotes, for a message; nothing for a list or a mapping."""
        return _quoted(self.node.value) if isinstance(self.node, yaml.ScalarNode) else ""

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode) and self.is_a("seq")

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode) and self.is_a("map")

    def is_scalar(self, *kinds: str) -> bool:
        """Whether it is a scalar of one of these YAML types (str, int, float, bool, null)."""
        return isinstance(self.node, yaml.ScalarNode) and self.is_a(*kinds)

    def is_a(self, *kinds: str) -> bool:
        return self.node.tag in {_TAG + kind for kind in kinds}

    def wrong(self, what: str, fix: str = "") -> InvalidError:
        """Add a problem with the value."""
        return self.document.wrong(self.line, self.path, what, fix)

    def wrong_name(self, what: str, fix: str = "") -> InvalidError:
        """Add a problem with the key."""
        return self.document.wrong(self.key_line, self.path, what, fix)

    def wrong_type(self, fix: str) -> InvalidError:
        """Add the problem that the value has another YAML type."""
        if self.is_a("null"):
            return self.wrong("has no value", fix)
        kind = _KINDS.get(self.node.tag, f"tagged {_quoted(self.node.tag)}")
        return self.wrong(f"{self.shown} is {kind}".lstrip(), fix)

    @functools.cached_property
    def entries(self) -> dict[str, Entry]:
        """The entries of a mapping, by name."""
        if not self.is_mapping:
            raise self.wrong_type("write a mapping of keys to values")
        pairs = self._pairs(self.node, ())
        return {
            name: Entry(self.document, value, _line(key), name, (*self.path, name))
            for name, (key, value) in pairs.items()
        }

    @functools.cached_property
    def items(self) -> list[Entry]:
        """The items of a list."""
        if not self.is_list:
            raise self.wrong_type("write a list")
        return [
            Entry(self.document, node, _line(node), path=(*self.path, index))
            for index, node in enumerate(self.node.value)
            if self.document.spend(_line(node))
        ]

    def text(self, fix: str) -> str:
        if not self.is_scalar("str"):
            raise self.wrong_type(fix)
        if _SURROGATE.search(self.node.value):
            raise self.wrong(f"{self.shown} has half a character (\\ud800 to \\udfff)", "write the whole character")
        return str(self.node.value)

    def number(self, fix: str) -> int | float:
        """A number in plain decimal notation; a float can be infinite."""
        if not self.is_scalar("int", "float"):
            raise self.wrong_type(fix)
        if self.is_a("int") and _WHOLE.fullmatch(self.node.value):
            return int(self.node.value)
        if self.is_a("float") and _DECIMAL.fullmatch(self.node.value):
            return float(self.node.value)
        raise self.wrong(f"{self.shown} is not a decimal number of at most 18 digits", fix)

    def truth(self, fix: str) -> bool:
        if not self.is_scalar("bool"):
            raise self.wrong_type(fix)
        truth = yaml.SafeLoader.bool_values.get(self.node.value.lower())
        if truth is None:  # !!bool maybe
            raise self.wrong(f"{self.shown} is neither true nor false", fix)
        return truth

    def _pairs(self, mapping: yaml.Node, within: tuple[yaml.Node, ...]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The keys of a mapping, its own before those that it merges; ``within`` are the mappings that merge it."""
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in mapping.value:
            line = _line(key)
            if not self.document.spend(line):
                return pairs
            if not isinstance(key, yaml.ScalarNode):
                self.document.wrong(line, self.path, "a key is a list or a mapping", "write text before the colon")
            elif key.tag == _TAG + "merge":
                merged += self._merged(line, value)
            elif key.value in pairs:
                first = _line(pairs[key.value][0])
                twice = f"the key stands in line {first} already"
                self.document.wrong(line, (*self.path, key.value), twice, "keep one of the two")
            else:
                pairs[key.value] = (key, value)
        for source in merged:
            if source in within or len(within) == MAX_MERGE_DEPTH:
                self.wrong("merges itself, or too many mappings in a row (<<)", "write the keys out")
                continue
            for name, pair in self._pairs(source, (*within, mapping)).items():
                pairs.setdefault(name, pair)
        return pairs

    def _merged(self, line: int, value: yaml.Node) -> list[yaml.Node]:
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(node, yaml.MappingNode) for node in nodes):
            self.document.wrong(line, self.path, "<< takes a mapping or a list of mappings", "give it an *alias")
            return []
        return [node for node in nodes if self.document.spend(line)]


# --- from text to the first entry


def open_document(data: str | bytes, file: str) -> Entry:
    """The whole file as an entry. Raises ConfigError where it is no YAML, too large, or empty."""
    if len(data) > MAX_CHARACTERS:
        raise ConfigError(f"{file}:1: the file: is larger than {MAX_CHARACTERS // 1024} KiB. Fix: check the path")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise _not_yaml(file, line, f"the byte 0x{byte:02x} is not UTF-8", "save it as UTF-8") from None
    node = _compose(text, file)
    if node is None or node.tag == _TAG + "null":
        raise ConfigError(f"{file}:1: the file: is empty. Fix: start from what `echo_rolling_conf yaml` prints")
    return Entry(Document(file), node, key_line=_line(node))


def _not_yaml(file: str, line: int, what: str, fix: str) -> ConfigError:
    """The parser's message can have line breaks; this one never has."""
    return ConfigError(f"{file}:{line}: {' '.join(what.split())}. Fix: {fix}")


def _compose(text: str, file: str) -> yaml.Node | None:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = repr(chr(error.character)) if isinstance(error.character, int) else repr(error.character)
        raise _not_yaml(file, line, f"the character {character} is not allowed in YAML", "remove it") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file) from None
    except (RecursionError, ValueError, OverflowError) as error:  # "\UFFFFFFFF", or %YAML with a version of 5000 digits
        is_deep = isinstance(error, RecursionError)
        what = "nested too deeply" if is_deep else "not valid YAML: a number in it is too large"
        line = loader.get_mark().line + 1 if loader else 1
        raise _not_yaml(file, line, what, _ANY_SYNTAX_FIX) from None


def _syntax_error(error: yaml.MarkedYAMLError, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = ", ".join(part for part in (error.problem, error.context) if part)
    fix = next((fix for sign, fix in _SYNTAX_FIXES.items() if sign in what), _ANY_SYNTAX_FIX)
    return _not_yaml(file, line, f"column {column}: not valid YAML: {what}", fix)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _written(path: KeyPath) -> str:
    """A path for a message: ``groups.app.warmup.requests[0].path``."""
    parts = [
        f"[{part}]"
        if isinstance(part, int)
        else f".{_short(part) if part.isprintable() and part and ' ' not in part else _quoted(part)}"
        for part in path
    ]
    return "".join(parts).removeprefix(".")


def _quoted(text: str) -> str:
    """For a message, which has one line; a regex keeps its single backslashes."""
    return _short(f"'{text}'" if text.isprintable() else repr(text))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


# --- readers that fit any file

Reader = Callable[[Entry], T]

Check = Callable[[Mapping[str, Entry], Mapping[str, Any]], None]
"""Adds the problems of a mapping's values taken together; a value that is invalid by itself is None."""


def section(
    make: Callable[..., T],
    keys: Mapping[str, Reader[Any]],
    required: Mapping[str, str] = MappingProxyType({}),
    check: Check | None = None,
) -> Reader[T]:
    """A mapping with known keys, given to ``make`` by name. ``required``: the fix where one of these is missing."""

    def read(entry: Entry) -> T:
        values: dict[str, Any] = {}
        for name, child in entry.entries.items():
            if name in keys:
                values[name] = attempt(keys[name], child)
            else:
                child.wrong_name(f"unknown key{suggestion(name, keys)}")
        for name in [name for name in required if name not in values]:
            entry.document.wrong(entry.key_line, (*entry.path, name), "is missing", required[name])
            values[name] = None
        if check:
            check(entry.entries, values)
        if None in values.values():
            raise InvalidError
        return make(**values)

    return read


def table(
    name_rule: tuple[Callable[[str], object], str, str], read: Reader[T], may_lack: bool = False
) -> Reader[dict[str, T]]:
    """A mapping with names of the operator's own; ``name_rule``: whether a name is valid, what an invalid one is,
    and the fix. ``may_lack``: an invalid value is left out, and the others are returned."""
    is_name, what, fix = name_rule

    def read_table(entry: Entry) -> dict[str, T]:
        for child in entry.entries.values():
            if not is_name(child.name):
                child.wrong_name(what, fix)
        values = {name: attempt(read, child) for name, child in entry.entries.items()}
        valid = {name: value for name, value in values.items() if value is not None}
        if len(valid) < len(values) and not may_lack:
            raise InvalidError
        return valid

    return read_table


def each(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list of such values."""

    def read_each(entry: Entry) -> tuple[T, ...]:
        values = [attempt(read, item) for item in entry.items]
        valid = tuple(value for value in values if value is not None)
        if len(valid) < len(values):
            raise InvalidError
        return valid

    return read_each


def one_or_each(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """A value, or a list of such values."""
    return lambda entry: each(read)(entry) if entry.is_list else (read(entry),)


def attempt(read: Reader[T], entry: Entry) -> T | None:
    """The value; None where it is invalid, so that the problems of its neighbours are found, too."""
    try:
        return read(entry)
    except InvalidError:
        return None


def suggestion(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:60], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f". Fix: use one of {', '.join(known)}"
