"""Each code in the code has an entry in supervisor_rolling/help, and each entry's message is one that is printed."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import supervisor.options
import yaml

from supervisor_rolling.help import entries
from supervisor_rolling.listener.config.parser import parse

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "supervisor_rolling"

PLACES = {"Finding": 0, "Reason": 0, "see": 0, "with_see": 1, "RollingFault": 2}
"""Which argument of a call is a code; of an error it is the second one."""

HOLE = "…"
_STATE = r"\b(?:STOPPED|STARTING|RUNNING|BACKOFF|STOPPING|EXITED|FATAL|SIG[A-Z]+)\b"
_EXAMPLE = "|".join(
    [
        r"app:\S+\b|\bapp-\d+\b",  # a process
        r"(?<!\w)/[\w./-]+\w",  # a path
        r"\b\d[\d.]*\b",
        r"\b[\w.]+:(?:rolling|make_\w+)\b",  # a section, a function
        r"\w+Error: [^.]*?'[^']*'",  # what Python says
    ]
)
_VARIES = re.compile(rf"{HOLE}|{_STATE}|{_EXAMPLE}|%(?:\(\w+\))?[-.0-9]*[sdrg]")
_BETWEEN = re.compile(r"(?:: |; |, |\. (?:Fix: |See: )?| \(|\) )")
_EDGES = " .:;,()"
_CODE = re.compile(r"[a-z]+(?:\.[a-z_]+)*")


# --- codes


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def codes_of(tree: ast.AST) -> Iterator[str]:
    """All that stands where a code belongs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            where = PLACES.get(name, 1 if name.endswith("Error") else None)
            given = [] if where is None else node.args[where : where + 1]
            for value in (*given, *(one.value for one in node.keywords if one.arg in ("code", "page", "extra"))):
                yield from texts_in(value)
        elif isinstance(node, ast.Dict):  # of a log record
            of_log = [value for key, value in zip(node.keys, node.values) if getattr(key, "value", "") == "code"]
            yield from (text for value in of_log for text in texts_in(value))
        elif isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.Assign) and [getattr(to, "id", "") for to in one.targets] == ["code"]:
                    yield from texts_in(one.value)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("PAGES", "codes"):
            yield from texts_in(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name.endswith(("code_of", "_code")):
            yield from (text for one in ast.walk(node) if isinstance(one, ast.Return) for text in texts_in(one.value))


def texts_in(value: ast.AST | None) -> Iterator[str]:
    """The codes that an expression may be; what decides between them is none."""
    if isinstance(value, ast.IfExp):
        yield from (*texts_in(value.body), *texts_in(value.orelse))
    elif isinstance(value, ast.Dict):
        yield from (text for one in value.values for text in texts_in(one))
    elif isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "get":  # of a table, with a default
        yield from (text for one in value.args for text in texts_in(one))
    elif isinstance(value, ast.Constant) and isinstance(value.value, str) and _CODE.fullmatch(value.value):
        yield value.value


@functools.cache
def codes() -> set[str]:
    return {code for tree in trees().values() for code in codes_of(tree)}


def titles() -> list[str]:
    found = []
    for part in (PACKAGE / "help").glob("*.rst"):
        found += re.findall(r"^(\S+)\n-{4,}$", part.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def test_each_code_has_an_entry() -> None:
    assert sorted(codes() - set(entries())) == []


def test_each_entry_is_of_a_code() -> None:
    assert sorted(set(entries()) - codes()) == []


def test_no_code_has_two_entries() -> None:
    assert [title for title, times in Counter(titles()).items() if times > 1] == []


# --- messages


def rendered(node: ast.AST, constants: dict[str, str]) -> str | None:
    """A text as it is printed, with a hole for each value that is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(rendered(one, constants) or HOLE for one in node.values)
    if isinstance(node, ast.FormattedValue):
        return rendered(node.value, constants)
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    return None


@functools.cache
def printed() -> str:
    """All texts in the package, each value that is filled in as a hole."""
    own = ast.parse(inspect.getsource(supervisor.options))  # a message of supervisorctl has an entry, too
    nodes = [node for tree in (*trees().values(), own) for node in ast.walk(tree)]
    constants: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            constants[node.targets[0].id] = rendered(node.value, constants) or HOLE
    texts = [text for node in nodes if (text := rendered(node, constants))]
    return "\n".join(_VARIES.sub(HOLE, " ".join(text.split())) for text in texts)


@functools.cache
def segments() -> set[str]:
    """The texts between two values."""
    return {one.strip(_EDGES) for line in printed().split("\n") for one in line.split(HOLE)}


@functools.cache
def is_printed(part: str) -> bool:
    """Whether a part of a message is one text of the package, or several that are put together."""
    part = part.strip(_EDGES)
    if len(part) < 3 or part in printed() or part in segments():
        return True
    return any(
        is_printed(part[: at.start()]) and is_printed(part[at.end() :]) for at in _BETWEEN.finditer(part)
    ) or any(part[: at.start()] in segments() and is_printed(part[at.end() :]) for at in re.finditer(" ", part))


def messages(entry: list[str]) -> list[str]:
    """Those of the first literal block of an entry: a line each."""
    begin = next(n for n, line in enumerate(entry) if line.strip() == "::") + 1
    end = next((n for n, line in enumerate(entry) if n > begin and line and not line.startswith(" ")), len(entry))
    return [line.strip().removeprefix("ERROR: ").removeprefix("Error: ") for line in entry[begin:end] if line.strip()]


@pytest.mark.parametrize("code", sorted(entries()))
def test_entry_has_messages_that_are_printed(code: str) -> None:
    found = messages(list(entries()[code]))
    assert found, f"{code}: begin the entry with the message, as a literal block"
    unknown = [part for one in found for part in _VARIES.split(one) if not is_printed(part)]
    assert unknown == [], f"{code}: no text in the package has this; is it a message that was changed?"


# --- references


def test_commands_that_name_an_entry_lead_there() -> None:
    pages = [*(ROOT / "docs").rglob("*.rst"), *(PACKAGE / "help").glob("*.rst"), ROOT / "README.rst"]
    texts = [*(page.read_text(encoding="utf-8") for page in pages), printed()]
    named = {code for text in texts for code in re.findall(r"supervisor_rolling help ([a-z_.]+[a-z])", text)}
    assert sorted(named - set(entries()) - {"codes"}) == []


# --- remedies


def remedies(language: str) -> list[tuple[str, str]]:
    """The blocks of a language in the entries, each with its code."""
    block = re.compile(rf"^( *)\.\. code-block:: {language}\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
    texts = {code: "\n".join([*lines, ""]) for code, lines in entries().items()}
    return [(code, textwrap.dedent(found[2])) for code, text in texts.items() for found in block.finditer(text)]


@pytest.mark.parametrize(("code", "text"), remedies("yaml"))
def test_yaml_of_an_entry_is_valid(code: str, text: str) -> None:
    written = {"groups": {"app": {}}, **yaml.safe_load(text)}
    groups = {name: {"ports": "auto", **policy} for name, policy in written["groups"].items()}
    config = parse(yaml.safe_dump({**written, "groups": groups}), f"{code}.yaml")
    assert not config.invalid
