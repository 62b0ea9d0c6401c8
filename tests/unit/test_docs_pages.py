"""The pages of the documentation as a browser shows them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import chromium

pytestmark = pytest.mark.needs("browser")

ROOT = Path(__file__).resolve().parents[2]
PHONE = 360
"""Pixels: as wide as the narrowest phones."""

WIDER = """
const content = document.querySelector(".content")
return content.scrollWidth <= content.clientWidth ? [] : [...content.querySelectorAll("*")]
    .filter((one) => one.getBoundingClientRect().right > innerWidth)
    .map((one) => `${one.tagName} ${one.textContent.trim().slice(0, 60)}`).slice(0, 20)
"""
"""What makes the content scroll: the theme hides what is beyond the window. A block or a table may scroll by itself."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All of them, built."""
    folder = tmp_path_factory.mktemp("docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-n",
        "-d",
        str(folder / "trees"),
        "docs",
        str(folder / "html"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return sorted((folder / "html").rglob("*.html"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def test_no_page_scrolls_sideways_on_a_phone(pages: list[Path], browser: chromium.Browser) -> None:
    wide = {}
    for page in pages:
        browser.visit(page.as_uri(), PHONE, 800)
        if found := browser.run(WIDER):
            wide[page.name] = found
    assert wide == {}
    assert len(pages) > 30


def test_page_asks_for_nothing_from_the_network(pages: list[Path], browser: chromium.Browser) -> None:
    for page in [one for one in pages if one.name in ("index.html", "configuration.html", "search.html")]:
        browser.visit(page.as_uri())
        assert [address for address in browser.asked_for() if not address.startswith(("file:", "data:"))] == []
