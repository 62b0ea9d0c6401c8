"""The policies for the guard: the last good file, whatever becomes of it meanwhile."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import Config, GatePolicy
from supervisor_rolling.listener import config
from supervisor_rolling.listener.config import mark
from supervisor_rolling.listener.policy_file import Policies
from tests.support.background import AtOnce


class Loader:
    """Reads a file as a config with its text as the backend; ``bad`` is an error. Counts how often it is read."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: str) -> Config:
        self.times += 1
        try:
            text = Path(path).read_text(encoding="ascii")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        if text == "bad":
            raise ConfigError(f"{path}: a typing error")
        return Config(GatePolicy(backend=text), {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "rolling.yaml"
    found.write_text("one", encoding="ascii")
    return found


@pytest.fixture
def load() -> Loader:
    return Loader()


def backend(policies: Policies) -> str:
    """What the policies say now."""
    found = policies.latest()
    return found.gate.backend if found else "none"


def rewrite(file: Path, text: str) -> None:
    """Another text, and a time of change that is another even where the clock is coarse."""
    before = os.stat(file).st_mtime_ns if file.exists() else 0
    file.write_text(text, encoding="ascii")
    os.utime(file, ns=(before + 1_000_000, before + 1_000_000))


def test_unchanged_file_is_read_once(file: Path, load: Loader) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    assert [backend(policies) for _ in range(5)] == ["one"] * 5
    assert load.times == 1


def test_changed_file_is_read_again(file: Path, load: Loader) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    assert backend(policies) == "one"
    rewrite(file, "two")
    assert [backend(policies), backend(policies)] == ["two", "two"]
    assert load.times == 2


def test_changed_length_is_a_changed_file(file: Path, load: Loader) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    backend(policies)
    then = os.stat(file).st_mtime_ns
    file.write_text("three", encoding="ascii")
    os.utime(file, ns=(then, then))
    assert backend(policies) == "three"


def test_replaced_file_is_a_changed_file(file: Path, load: Loader) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    backend(policies)
    then, other = os.stat(file).st_mtime_ns, file.with_name("other")
    other.write_text("two", encoding="ascii")
    os.utime(other, ns=(then, then))
    os.replace(other, file)
    assert backend(policies) == "two"


def test_invalid_file_keeps_valid_one_and_logs_once(file: Path, load: Loader, caplog: pytest.LogCaptureFixture) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    backend(policies)
    rewrite(file, "bad")
    with caplog.at_level(logging.WARNING):
        assert [backend(policies) for _ in range(3)] == ["one"] * 3
    (record,) = caplog.records
    assert "no rollout can start, and the crash guard uses the last valid version" in record.message
    assert "a typing error" in record.message
    rewrite(file, "two")
    assert backend(policies) == "two"


def test_problem_is_one_line_until_fixed(file: Path) -> None:
    def load(path: str) -> Config:
        wrong = file.read_text(encoding="ascii")
        if wrong != "good":
            raise ConfigError(wrong)
        return Config(GatePolicy(), {})

    policies = Policies(str(file), load, mark, AtOnce())
    cost = "no rollout can start, and the crash guard uses the last valid version: "
    for text, problem in (
        ("good", ""),
        ("one: a typing error", f"{cost}one: a typing error"),
        ("good", ""),
        ("one: a typing error\ntwo: another\nthree: a third", f"{cost}one: a typing error; and 2 more"),
    ):
        rewrite(file, text)
        policies.latest()
        assert policies.problem == problem


def test_invalid_group_keeps_its_last_valid_policy(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    policies = Policies(str(file), lambda path: config.parse(file.read_text(encoding="ascii"), "f"), mark, AtOnce())
    rewrite(file, "groups: {app: {ports: auto, canary: 1}, web: {ports: auto, canary: 1}}")
    policies.latest()
    rewrite(file, "groups: {app: {ports: auto, canary: x}, web: {ports: auto, canary: 2}, new: {ports: 1}}")
    found = policies.latest()
    assert found is not None
    assert {name: policy.canary for name, policy in found.groups.items()} == {"app": 1, "web": 2}
    cost = (
        "no rollout of app can start, and the crash guard there uses the last valid version; "
        "no rollout of new can start, and no process there is guarded until it is fixed, unless its group already was"
    )
    assert policies.problem == (
        f"{cost}: f:1: groups.app.canary: 'x' is text. Fix: write a whole number from 0 to 65535; and 1 more"
    )
    assert "groups.new.ports: '1' is a number" in caplog.messages[-1]


def test_missing_file_keeps_the_last_valid_one(file: Path, load: Loader, caplog: pytest.LogCaptureFixture) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    backend(policies)
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert [backend(policies) for _ in range(3)] == ["one"] * 3
    assert len(caplog.records) == 1
    rewrite(file, "two")
    assert backend(policies) == "two"


def test_without_a_valid_file_there_are_no_policies(file: Path, load: Loader) -> None:
    file.unlink()
    policies = Policies(str(file), load, mark, AtOnce())
    assert [policies.latest(), policies.latest()] == [None, None]
    assert load.times == 1
    rewrite(file, "bad")
    assert policies.latest() is None
    cost = "no rollout can start, and no process is guarded until it is fixed, unless its group already was: "
    assert policies.problem == f"{cost}{file}: a typing error"
    rewrite(file, "one")
    assert backend(policies) == "one"


def test_file_changed_while_read_is_read_again(file: Path) -> None:
    times: list[str] = []

    def load(path: str) -> Config:
        times.append(file.read_text(encoding="ascii"))
        if len(times) == 1:
            rewrite(file, "two")
        return Config(GatePolicy(backend=times[-1]), {})

    policies = Policies(str(file), load, mark, AtOnce())
    assert [backend(policies), backend(policies), backend(policies)] == ["one", "two", "two"]


def test_fresh_raises_on_an_invalid_file(file: Path, load: Loader) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    assert policies.fresh().gate.backend == "one"
    rewrite(file, "bad")
    with pytest.raises(ConfigError, match="a typing error"):
        policies.fresh()
    rewrite(file, "two")
    assert policies.fresh().gate.backend == "two"
