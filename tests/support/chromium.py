"""A headless Chromium that looks at a page as people do: in light or dark, wide or narrow, by keyboard, by its tree of
accessibility. Every wait is bounded, and the browser is gone when the ``with`` block ends."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains

WITHIN = 60
"""Seconds for a page to load, and for a script in it to end."""

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
"""Without a screen, as root, in a container with little shared memory; and without requests of its own."""


class NoChromiumError(Exception):
    """The browser, or its driver, is not installed."""


class Browser:
    """A window. ``show`` first."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self._driver = driver
        self._file = folder / "page.html"

    def show(self, page: str, width: int = 1400, height: int = 900, **features: str) -> None:
        """Open a page, given as its text, as ``visit`` does."""
        self._file.write_text(page, encoding="utf-8")
        self.visit(self._file.as_uri(), width, height, **features)

    def visit(self, address: str, width: int = 1400, height: int = 900, **features: str) -> None:
        """Open a page in a window of that size. ``features``: of media, ``prefers_color_scheme="dark"``; ``media`` is
        the medium itself."""
        medium = features.pop("media", "")
        selected = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.tell("Emulation.setEmulatedMedia", media=medium, features=selected)
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._driver.get("about:blank")  # so that a fragment or a scroll position of the last page is gone
        for log in ("performance", "browser"):
            self._driver.get_log(log)  # what was before is of no interest
        self._driver.get(address)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns that the browser runs in the page; the page's own policy does not hold it."""
        return self._driver.execute_script(script, *arguments)

    def run_until(self, script: str) -> Any:
        """What a script gives to its callback, its last argument."""
        return self._driver.execute_async_script(script)

    def press(self, key: str, held: str = "") -> None:
        """Press a key, while another is held."""
        actions = ActionChains(self._driver)
        if held:
            actions.key_down(held)
        actions.send_keys(key)
        if held:
            actions.key_up(held)
        actions.perform()

    def tell(self, method: str, **parameters: object) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        answer: dict[str, Any] = self._driver.execute_cdp_cmd(method, parameters)
        return answer

    def asked_for(self) -> list[str]:
        """Every address that was asked for since ``show``, but that of the page."""
        told = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        addresses = [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
        return [address for address in addresses if address != self._file.as_uri()]

    def complaints(self) -> list[str]:
        """What the browser has to say about the page in its console."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def accessible(self) -> list[dict[str, Any]]:
        """What a screen reader gets: ``role``, ``name`` and whether it is ``focusable``, of all that is not
        ignored."""
        self.run_until("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")  # drawn
        nodes = self.tell("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                **{key: node.get(key, {}).get("value", "") for key in ("role", "name")},
                "focusable": any(one["name"] == "focusable" for one in node.get("properties", ())),
            }
            for node in nodes
            if not node["ignored"]
        ]

    def shoot(self, file: Path) -> None:
        """A picture of what is in the window."""
        file.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


def programs() -> tuple[str, str]:
    """Where the browser and its driver are. Raises NoChromiumError, with what to install."""
    found = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not (found[0] and found[1]):
        raise NoChromiumError(
            "The tests look at pages in Chromium, and chromium or chromedriver is not there. On Debian: "
            "apt-get install chromium chromium-driver. Then try again."
        )
    return found[0], found[1]


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in that folder. Raises NoChromiumError where there is none."""
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    started = webdriver.Chrome(options=options, service=service)
    try:
        started.set_page_load_timeout(WITHIN)
        started.set_script_timeout(WITHIN)
        yield Browser(started, folder)
    finally:
        started.quit()
