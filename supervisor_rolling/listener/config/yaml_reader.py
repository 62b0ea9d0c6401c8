"""YAML as entries that know their file, line and path, and that write a problem down instead of stopping at it.

PyYAML's loading forgets the lines, keeps the last of two equal keys, and takes ``010`` for 8 and ``1:30`` for 90. So
this reads the nodes below it. A *reader* is a function that takes an ``Entry`` and gives a value, or None after it has
written down in the ``Document`` what is wrong; ``policy.py`` puts readers into tables. Anchors, aliases and merge keys
(``<<``) work; what they can multiply is bounded.

The parser is PyYAML's in Python. libyaml's is ten times as fast, and dies of SIGSEGV on 200000 opening brackets.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Optional, TypeVar, Union

import yaml
from yaml.reader import ReaderError

from supervisor_rolling.core.errors import ConfigError

T = TypeVar("T")

MAX_CHARACTERS = 128 * 1024
"""A thousand processes with their ports take 20 KB; this much takes the parser one to three seconds."""

MAX_VALUES = 20_000
"""What aliases and merge keys may unfold to: as much as a file of that size holds without them."""

DEEPEST_MERGE = 20
"""Mappings that merge each other in a row: below what recursion allows, above what anybody can follow."""

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

_HINTS = {  # what the parser says: what it comes from
    "unknown escape character": r"put a regex in single quotes: 'app-(\d+)'",
    "'\\t'": "indent with spaces, not tabs",
    "cannot start any token": "put the value in quotes",
    "undefined alias": "put a value that begins with * in quotes",
    "single document": "keep one document: no second ---",
}
_ANY_HINT = "look at the indentation, colons and quotes here and in the line above"


# --- entries


Path = tuple[Union[str, int], ...]
"""Where a value stands: the keys as they are written, and the places in lists."""


class Problem(NamedTuple):
    """A mistake in the file; ``text`` is the whole message."""

    line: int
    path: Path
    text: str


@dataclass
class Document:
    """A file that is being read: the problems found so far, and how many values may still be looked at."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    values_left: int = MAX_VALUES

    def wrong(self, line: int, path: Path, what: str) -> None:
        self.problems.append(Problem(line, path, f"{self.file}:{line}: {_written(path) or 'the file'}: {what}"))

    def found(self) -> list[Problem]:
        """The problems in the order of the file."""
        return sorted(self.problems, key=lambda problem: problem.line)

    def spend(self, line: int) -> bool:
        """Whether one more value may be looked at. The first that may not is a problem."""
        self.values_left -= 1
        if self.values_left == -1:
            self.wrong(line, (), f"aliases make it more than {MAX_VALUES} values; write fewer")
        return self.values_left >= 0


Pair = tuple[yaml.Node, yaml.Node]


@dataclass(frozen=True)
class Entry:
    """A value of the file and where it stands. ``name`` is its key as it is written, ``key_line`` that key's line."""

    document: Document
    node: yaml.Node
    key_line: int
    name: str = ""
    path: Path = ()

    @property
    def line(self) -> int:
        """Where to look: at a scalar itself (an alias leads to its anchor), at the key of anything larger."""
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

    def wrong(self, what: str) -> None:
        self.document.wrong(self.line, self.path, what)

    def wrong_name(self, what: str) -> None:
        self.document.wrong(self.key_line, self.path, what)

    def unfit(self, do: str) -> None:
        """Say of which kind the value is, and what to do instead."""
        if self.is_a("null"):
            self.wrong(f"has no value; {do}")
        else:
            kind = _KINDS.get(self.node.tag, f"tagged {_quoted(self.node.tag)}")
            self.wrong(f"{self.shown} is {kind}; {do}".lstrip())

    @functools.cached_property
    def entries(self) -> dict[str, Entry] | None:
        """The entries of a mapping, by name."""
        if not self.is_mapping:
            self.unfit("write a mapping of keys to values")
            return None
        pairs = self._pairs(self.node, ())
        return {
            name: Entry(self.document, value, _line(key), name, (*self.path, name))
            for name, (key, value) in pairs.items()
        }

    @functools.cached_property
    def items(self) -> list[Entry] | None:
        """The items of a list."""
        if not self.is_list:
            self.unfit("write a list")
            return None
        return [
            Entry(self.document, node, _line(node), path=(*self.path, index))
            for index, node in enumerate(self.node.value)
            if self.document.spend(_line(node))
        ]

    def text(self, do: str) -> str | None:
        if not self.is_scalar("str"):
            self.unfit(do)
            return None
        if _SURROGATE.search(self.node.value):
            self.wrong(f"{self.shown} holds half a character (\\ud800 to \\udfff); write the whole character")
            return None
        return str(self.node.value)

    def number(self, do: str) -> int | float | None:
        """A number in plain decimal notation; a float can be infinite."""
        if not self.is_scalar("int", "float"):
            self.unfit(do)
            return None
        if self.is_a("int") and _WHOLE.fullmatch(self.node.value):
            return int(self.node.value)
        if self.is_a("float") and _DECIMAL.fullmatch(self.node.value):
            return float(self.node.value)
        self.wrong(f"{self.shown} is not a decimal number of at most 18 digits; {do}")
        return None

    def truth(self, do: str) -> bool | None:
        if not self.is_scalar("bool"):
            self.unfit(do)
            return None
        truth = yaml.SafeLoader.bool_values.get(self.node.value.lower())
        if truth is None:  # !!bool maybe
            self.wrong(f"{self.shown} is neither true nor false; {do}")
        return truth

    def _pairs(self, mapping: yaml.Node, within: tuple[yaml.Node, ...]) -> dict[str, Pair]:
        """The keys of a mapping, its own before those that it merges; ``within`` are the mappings that merge it."""
        pairs: dict[str, Pair] = {}
        merged: list[yaml.Node] = []
        for key, value in mapping.value:
            if not self.document.spend(_line(key)):
                return pairs
            if not isinstance(key, yaml.ScalarNode):
                self.document.wrong(_line(key), self.path, "a key is a list or a mapping; write text before the colon")
            elif key.tag == _TAG + "merge":
                merged += self._merged(key, value)
            elif key.value in pairs:
                self._twice(key, pairs[key.value][0])
            else:
                pairs[key.value] = (key, value)
        for source in merged:
            if source in within or len(within) == DEEPEST_MERGE:
                self.wrong("merges itself, or too many mappings in a row (<<); write the keys out")
                continue
            for name, pair in self._pairs(source, (*within, mapping)).items():
                pairs.setdefault(name, pair)
        return pairs

    def _merged(self, key: yaml.Node, value: yaml.Node) -> list[yaml.Node]:
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(node, yaml.MappingNode) for node in nodes):
            self.document.wrong(_line(key), self.path, "<< takes a mapping or a list of mappings; give it an *alias")
            return []
        return [node for node in nodes if self.document.spend(_line(key))]

    def _twice(self, key: yaml.Node, first: yaml.Node) -> None:
        path = (*self.path, key.value)
        self.document.wrong(_line(key), path, f"the key stands in line {_line(first)} already; keep one of the two")


Reader = Callable[[Entry], Optional[T]]


def open_document(text: str, file: str) -> Entry:
    """The whole file as an entry. Raises ConfigError where it is no YAML, too large, or empty."""
    if len(text) > MAX_CHARACTERS:
        raise too_large(file)
    node = _compose(text, file)
    if node is None or node.tag == _TAG + "null":
        raise ConfigError(f"{file}:1: the file: is empty; copy conf/rolling.yaml and name your groups in it")
    return Entry(Document(file), node, key_line=_line(node))


def too_large(file: str) -> ConfigError:
    return ConfigError(f"{file}:1: the file: is larger than {MAX_CHARACTERS // 1024} KiB; is it the right file?")


def not_yaml(file: str, line: int, what: str, do: str) -> ConfigError:
    """What the parser says can hold line breaks; the message never does."""
    return ConfigError(f"{file}:{line}: {' '.join(what.split())}; {do}")


def _compose(text: str, file: str) -> yaml.Node | None:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = repr(chr(error.character)) if isinstance(error.character, int) else repr(error.character)
        raise not_yaml(file, line, f"the character {character} cannot stand in YAML", "remove it") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file) from None
    except RecursionError:
        raise not_yaml(file, _line_of(loader), "nested too deeply", _ANY_HINT) from None
    except (ValueError, OverflowError):  # "\UFFFFFFFF", or %YAML with a version of 5000 digits
        raise not_yaml(file, _line_of(loader), "not valid YAML: a number in it is too large", _ANY_HINT) from None


def _syntax_error(error: yaml.MarkedYAMLError, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    said = ", ".join(part for part in (error.problem, error.context) if part)
    hint = next((hint for sign, hint in _HINTS.items() if sign in said), _ANY_HINT)
    return not_yaml(file, line, f"column {column}: not valid YAML: {said}", hint)


def _line_of(loader: yaml.SafeLoader | None) -> int:
    return loader.get_mark().line + 1 if loader else 1


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _written(path: Path) -> str:
    """A path for a message: ``groups.app.warmup.requests[0].path``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" for part in path]
    return "".join(parts).removeprefix(".")


def _plain(name: str) -> str:
    """A key as part of a path: as it is, unless that would break the message's line."""
    return _short(name) if name.isprintable() and name and " " not in name else _quoted(name)


def _quoted(text: str) -> str:
    """For a message, which has one line; a regex keeps its single backslashes."""
    return _short(f"'{text}'" if text.isprintable() else repr(text))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


# --- readers that fit any file

Check = Callable[[Mapping[str, Entry], Mapping[str, Any]], None]
"""Looks at the values of a mapping together, None for those that have a problem already, and writes down what is
wrong."""


def no_check(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    pass


def section(
    make: Callable[..., T],
    keys: Mapping[str, Reader[Any]],
    required: Mapping[str, str] = MappingProxyType({}),
    check: Check = no_check,
) -> Reader[T]:
    """A mapping with known keys, given to ``make`` by name. ``required``: what to do where one of these is missing."""

    def read(entry: Entry) -> T | None:
        if entry.entries is None:
            return None
        values: dict[str, Any] = {}  # None where there is a problem
        for name, child in entry.entries.items():
            if name in keys:
                values[name] = keys[name](child)
            else:
                child.wrong_name(f"unknown key{suggestion(name, keys)}")
        for name in required.keys() - values.keys():
            entry.document.wrong(entry.key_line, (*entry.path, name), f"is missing; {required[name]}")
            values[name] = None
        check(entry.entries, values)
        return None if None in values.values() else make(**values)

    return read


def table(
    name_problem: Callable[[str], str], read: Reader[T], check: Check = no_check, may_lack: bool = False
) -> Reader[dict[str, T]]:
    """A mapping with names of the operator's own; ``name_problem`` says what is wrong with one, or nothing.
    ``may_lack``: a value with a problem is left out, and the others are given."""

    def read_table(entry: Entry) -> dict[str, T] | None:
        if entry.entries is None:
            return None
        for child in entry.entries.values():
            problem = name_problem(child.name)
            if problem:
                child.wrong_name(problem)
        values = {name: read(child) for name, child in entry.entries.items()}
        check(entry.entries, values)
        good = {name: value for name, value in values.items() if value is not None}
        return good if may_lack or len(good) == len(values) else None

    return read_table


def each(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list of such values."""

    def read_each(entry: Entry) -> tuple[T, ...] | None:
        if entry.items is None:
            return None
        values = [read(item) for item in entry.items]
        good = tuple(value for value in values if value is not None)
        return good if len(good) == len(values) else None

    return read_each


def one_or_each(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """A value, or a list of such values."""

    def read_one_or_each(entry: Entry) -> tuple[T, ...] | None:
        if entry.is_list:
            return each(read)(entry)
        value = read(entry)
        return None if value is None else (value,)

    return read_one_or_each


def choice(*words: str) -> Reader[str]:
    """One of these words."""

    def read(entry: Entry) -> str | None:
        word = entry.text(f"write {' or '.join(words)}")
        if word is not None and word not in words:
            entry.wrong(f"{entry.shown} is unknown{suggestion(word, words)}")
            return None
        return word

    return read


def whole(least: int, most: int) -> Reader[int]:
    """A whole number in this range."""
    do = f"write a whole number from {least} to {most}"

    def read(entry: Entry) -> int | None:
        number = entry.number(do)
        if number is not None and (isinstance(number, float) or not least <= number <= most):
            entry.wrong(f"{entry.shown} is not a whole number in range; {do}")
            return None
        return number

    return read


def suggestion(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:60], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; known are: {', '.join(known)}"
