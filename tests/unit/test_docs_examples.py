"""The examples and links in the README and in the pages of docs/ are right."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from supervisor_rolling.listener.config import parse
from tests.support.pages import PAGES, README, ROOT, examples

README_LINES = 160
"""At most so many: it is a page, and docs/ has the rest."""


def texts_of(language: str, word: str = "") -> list[tuple[str, str]]:
    """(page, block) of each code block in a language that contains a word."""
    return [(page.name, block) for page in PAGES for block in examples(page, language) if word in block]


@pytest.mark.parametrize(("page", "text"), texts_of("yaml", "groups:"))
def test_policy_in_a_page_is_valid(page: str, text: str) -> None:
    found = parse(text, page)
    assert found.groups
    assert set(found.groups) == set(yaml.safe_load(text)["groups"])


def test_every_page_with_a_policy_is_read() -> None:
    assert "README.rst" in {page for page, _ in texts_of("yaml", "groups:")}


@pytest.mark.parametrize(("page", "text"), texts_of("ini", "rolling]"))
def test_section_in_a_page_is_that_of_conf(page: str, text: str) -> None:
    whole, found = (configparser.RawConfigParser(inline_comment_prefixes=(";",)) for _ in range(2))
    whole.read(ROOT / "conf" / "supervisord.conf")
    found.read_string(text)
    names = [name for name in found.sections() if name.endswith(":rolling")]
    assert names
    for name in names:
        ours, shown = dict(whole[name]), dict(found[name])
        assert Path(shown.pop("command", "").split(" ")[0]).name == ours.pop("command", "").split(" ")[0]
        assert shown == ours, f"{page}: [{name}]"


def test_readme_is_a_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_path_in_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"(?:<|image:: )([^\s>]+)", text) if "://" not in path]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_reference_in_the_readme_has_its_target() -> None:
    text = README.read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.\. _([^:]+):", text, re.MULTILINE))
    assert set(re.findall(r"`([^`<>]+)`_(?!_)", text)) <= targets


def test_readme_names_only_make_targets_that_exist() -> None:
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page in PAGES:
        named = re.findall(r"(?:``|^ +\$? ?)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in named if name not in rules] == [], page.name
