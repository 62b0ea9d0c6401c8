"""Whose rolling.yaml root obeys. With real owners and real modes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor_rolling import skel
from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.listener.config import load, mark
from supervisor_rolling.listener.config.trusted_file import read
from supervisor_rolling.listener.policy_file import Policies
from tests.support.background import AtOnce

TEXT = "groups:\n  app:\n    ports: auto\n"
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """/tmp/…/etc, in which all is root's and everybody may read it: /tmp itself anybody may write, and it is sticky."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    (top / "etc").mkdir(mode=0o755)
    yield top / "etc"
    shutil.rmtree(top)


@pytest.fixture
def file(folder: Path) -> Path:
    found = folder / "rolling.yaml"
    found.write_text(TEXT, encoding="utf-8")
    found.chmod(0o644)
    return found


def problems(path: object) -> list[str]:
    """What the operator is told; empty where the file is good."""
    try:
        load(str(path))
    except ConfigError as error:
        return str(error).split("\n")
    return []


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)  # the default action ends the test run: better than to wait for ever
    try:
        yield
    finally:
        signal.alarm(0)


# --- what is obeyed


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o400, 0o755, 0o604])
def test_file_only_root_may_write_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert problems(file) == []


def test_group_readable_file_is_read(file: Path) -> None:
    os.chown(file, 0, NOBODY)
    file.chmod(0o640)
    assert problems(file) == []


def test_root_link_to_root_file_is_followed(file: Path) -> None:
    link = file.parent.parent / "link.yaml"
    link.symlink_to(file)
    (file.parent / "relative.yaml").symlink_to("../link.yaml")
    assert problems(link) == problems(file.parent / "relative.yaml") == []


def test_relative_path_begins_at_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert problems("rolling.yaml") == problems("./rolling.yaml") == problems("../etc/rolling.yaml") == []
    file.parent.chmod(0o777)
    assert problems("rolling.yaml") == problems(file)


def test_absolute_path_works_without_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "release-41"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert read(str(file), 100)
    assert mark(str(file)) != "missing"


def test_listener_without_root_reads_any_file(file: Path) -> None:
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0o666)
    file.parent.chmod(0o777)
    with as_nobody():
        assert problems(file) == []
    assert len(problems(file)) == 3


# --- what is not


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777, 0o620, 0o602])
def test_file_writable_by_others_is_refused_with_fix(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert problems(file) == [
        f"{file}: other users may write it (mode {mode:04o}): another user could change what root does. "
        f"Fix: chmod go-w {file}"
    ]
    subprocess.run(["sh", "-c", problems(file)[0].rpartition("Fix: ")[2]], check=True)
    assert problems(file) == []


def test_file_of_another_user_is_refused_with_fix(file: Path) -> None:
    os.chown(file, NOBODY, 0)
    assert problems(file) == [
        f"{file}: belongs to the user {NOBODY}: another user could change what root does. Fix: chown root {file}"
    ]
    subprocess.run(["sh", "-c", problems(file)[0].rpartition("Fix: ")[2]], check=True)
    assert problems(file) == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o2775])
@pytest.mark.parametrize("above", [0, 1])
def test_parent_directory_writable_by_others_is_refused(file: Path, above: int, mode: int) -> None:
    folder = file.parents[above]
    folder.chmod(mode)
    (problem,) = problems(file)
    assert problem.startswith(f"{folder}: other users may write it (mode {mode:04o}): another user could replace")
    assert problem.endswith(f". Fix: chmod go-w {folder}")


@pytest.mark.parametrize("above", [0, 1])
def test_parent_directory_of_another_user_is_refused(file: Path, above: int) -> None:
    os.chown(file.parents[above], NOBODY, 0)
    (problem,) = problems(file)
    assert problem.endswith(f". Fix: chown root {file.parents[above]}")


def test_sticky_directory_counts_only_the_files_owner(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert problems(file) == []
    os.chown(file, NOBODY, 0)
    assert len(problems(file)) == 1
    os.chown(file, 0, 0)
    os.chown(file.parent, NOBODY, 0)
    assert len(problems(file)) == 1, "its owner may remove what is root's in a sticky folder, too"


def test_directories_before_and_behind_a_link_are_checked(file: Path) -> None:
    link = file.parent.parent / "link"
    link.symlink_to(file.parent)
    file.parent.chmod(0o777)
    assert problems(link / "rolling.yaml") == problems(file)
    file.parent.chmod(0o755)
    os.chown(link, NOBODY, 0, follow_symlinks=False)
    (problem,) = problems(link / "rolling.yaml")
    assert problem.endswith(f". Fix: chown -h root {link}")


def test_replaceable_link_in_a_chain_is_refused(file: Path) -> None:
    open_folder = file.parent.parent / "open"
    open_folder.mkdir()
    (open_folder / "middle").symlink_to(file)
    (file.parent / "first.yaml").symlink_to(open_folder / "middle")
    assert problems(file.parent / "first.yaml") == []
    open_folder.chmod(0o777)
    (problem,) = problems(file.parent / "first.yaml")
    assert problem.startswith(f"{open_folder}: ")


def test_all_problems_of_a_path_come_at_once(file: Path) -> None:
    file.chmod(0o666)
    file.parent.chmod(0o777)
    os.chown(file.parent.parent, NOBODY, 0)
    assert [text.partition(": ")[0] for text in problems(file)] == list(map(str, (file, file.parents[1], file.parent)))


def test_name_with_blanks_is_quoted_in_the_fix(folder: Path) -> None:
    file = folder / "it's mine.yaml"
    file.write_text(TEXT, encoding="utf-8")
    file.chmod(0o666)
    subprocess.run(["sh", "-c", problems(file)[0].rpartition("Fix: ")[2]], check=True)
    assert problems(file) == []


def test_opened_file_is_checked_not_its_replacement(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, other = os.open, file.with_name("other")
    other.write_text(TEXT, encoding="utf-8")
    os.chown(other, NOBODY, 0)

    def swapped(path: str, flags: int, *more: int) -> int:
        return really(other, flags, *more)

    monkeypatch.setattr(os, "open", swapped)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: belongs to the user {NOBODY}")


# --- what is no file


def test_fifo_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with within(10):
        said = f"{folder / 'fifo'}: is not a regular file. Fix: name another file with --config"
        assert problems(folder / "fifo") == [said]
        with as_nobody():
            assert problems(folder / "fifo") == [said]


def test_circular_links_are_an_error(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with within(10):
        assert "cannot be read: Too many levels of symbolic links" in problems(folder / "a")[0]
        assert mark(str(folder / "a")) == "missing"


def test_no_file_descriptor_is_left_open(file: Path, folder: Path) -> None:
    before = os.listdir("/proc/self/fd")
    os.mkfifo(folder / "fifo")
    file.chmod(0o666)
    for path in (file, folder, folder / "fifo", "/proc/self/mem", "/dev/null"):
        assert problems(path)
    assert os.listdir("/proc/self/fd") == before


# --- the guard goes on by the last file that was good


def test_guard_keeps_valid_file_until_modes_are_fixed(file: Path) -> None:
    policies = Policies(str(file), load, mark, AtOnce())
    good = policies.latest()
    assert good is not None
    for wrong in (file, file.parent, file.parent.parent):
        mode = wrong.stat().st_mode
        file.write_text(TEXT.replace("app", f"other{mode}"), encoding="utf-8")
        wrong.chmod(0o777)
        assert policies.latest() is good
        wrong.chmod(mode & 0o7777)
        now = policies.latest()
        assert now is not None
        assert now is not good
        good = now


# --- whatever stands in it


@given(
    st.binary(max_size=300) | st.tuples(st.integers(0, 200), st.binary(max_size=5)).map(lambda change: _spoilt(*change))
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_config_or_problems(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert all(text.startswith(f"{file}:") for text in problems(file))


def _spoilt(at: int, other: bytes) -> bytes:
    """conf/rolling.yaml with other bytes somewhere."""
    text = Path(skel.__file__).with_name("rolling.yaml").read_bytes()
    at = len(text) * at // 200
    return text[:at] + other + text[at + len(other) :]
