"""What the documentation takes from the code is complete."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from from_code import PARTS, configuration, json_views, xmlrpc_methods
from supervisor_rolling.core.policy import Config
from supervisor_rolling.listener.config.parser import keys_of
from supervisor_rolling.plugin.rpc import RollingNamespaceRPCInterface

ROOT = Path(__file__).resolve().parents[2]

# --- configuration


@pytest.mark.parametrize("section", configuration.SECTIONS)
def test_each_key_has_a_meaning(section: str) -> None:
    for key in configuration.keys(section):
        assert key.meaning.endswith("."), f"{section}: write what {key.name} means, in a comment #: at its field"


def test_reference_has_every_key_that_is_read() -> None:
    for section, (kind, prefix) in configuration.SECTIONS.items():
        shown = {key.name for key in configuration.keys(section)}
        own = {f"{prefix}{name}" for name in keys_of(kind)}
        assert own - shown == {name for name in own if f"groups.NAME.{name}" in configuration.SECTIONS} - shown
    assert {title.partition(".")[0] for title in configuration.SECTIONS} == set(keys_of(Config))


def test_key_shows_its_bounds_and_default() -> None:
    found = {key.name: key for section in configuration.SECTIONS for key in configuration.keys(section)}
    assert (found["gate.lease"].kind, found["gate.lease"].default) == ("seconds, 15 to 3600", "``30``")
    assert (found["max_unavailable"].kind, found["max_unavailable"].default) == (
        "number of processes, or percentage",
        "``10%``",
    )
    assert found["min_ready_seconds"].default == "``auto``"
    assert found["warmup.requests"].kind == "list; each is: a path, or a map"


# --- man pages


def test_man_pages_are_those_of_the_sources(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-qWn",
            "-b",
            "man",
            "-c",
            docs,
            "-d",
            tmp_path / "d",
            docs / "man",
            tmp_path / "m",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    now, before = (
        {page.name: page.read_bytes() for page in folder.iterdir()}
        for folder in (tmp_path / "m", ROOT / "conf" / "man")
    )
    assert now == before, "make docs writes conf/man anew"


# --- interfaces


def test_each_field_of_json_has_a_meaning() -> None:
    for file, schema in json_views.schemas().items():
        objects = {file: schema, **{name: one for name, one in schema["$defs"].items() if "enum" not in one}}
        for name, found in objects.items():
            for field, one in json_views.fields(found):
                assert json_views.sentence(one), (
                    f"{file}: write what {field} of {name} means, in a comment at its field"
                )


def test_each_xmlrpc_method_says_what_it_takes_and_returns() -> None:
    for method in xmlrpc_methods.methods():
        taken = list(inspect.signature(getattr(RollingNamespaceRPCInterface, method.name)).parameters)[1:]
        assert [one.name for one in method.parameters] == taken
        assert all(one.text for one in (*method.parameters, method.returned)), method.name


@pytest.mark.parametrize("part", PARTS)
def test_part_of_a_page_has_no_empty_text(part: str) -> None:
    text = PARTS[part]()
    assert len(text) > 100
    assert "None" not in text
