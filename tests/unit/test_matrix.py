"""The matrix of Pythons and supervisors, with Pythons that are shell scripts: what is run, and what is made of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.waiting import eventually

FAKE = """\
#!/bin/sh
PATH=/usr/bin:/bin
case "$*" in
-c*) echo {version} ;;
"-m venv"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
"-m pip"*install*) {install} ;;
"-m pip"*check) ;;
"-m pytest"*) echo '<testsuites><testsuite {counts} time="7.4"/></testsuites>' >"${{3#--junit-xml=}}"; {tests} ;;
*) exit 9 ;;
esac
"""

GOOD = 'tests="5" failures="0" errors="0" skipped="0"'


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python; its folder ``bin`` is on the PATH, and ``.pyenv`` is pyenv's."""
    monkeypatch.setattr(matrix, "PLACE", tmp_path / "place")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def python(machine: Path) -> Callable[..., Path]:
    """Puts a Python onto the PATH: ``python("3.9.1", install="exit 1")``."""

    def make(version: str, counts: str = GOOD, install: str = "true", tests: str = "exit 0", path: str = "") -> Path:
        series = ".".join(version.split(".")[:2])
        program = machine / (path or f"bin/python{series}")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(FAKE.format(version=version, counts=counts, install=install, tests=tests), encoding="utf-8")
        program.chmod(0o755)
        return program

    return make


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """What was printed, in words, without the heading and the closing line."""
    return [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]


# --- which pairs


def test_every_python_is_meant_with_every_supervisor() -> None:
    pairs = matrix.selected([])
    assert len(pairs) == 10
    assert pairs[0] == ("3.9", "4.2.5")
    assert pairs[-1] == ("3.13", "4.3.0")


def test_a_pair_or_all_of_one_python_or_all_of_one_supervisor_can_be_named() -> None:
    assert matrix.selected(["3.9/4.2.3"]) == [("3.9", "4.2.3")]
    assert matrix.selected(["3.12", "3.12/4.3.0"]) == [("3.12", "4.2.5"), ("3.12", "4.3.0")]
    assert matrix.selected(["/4.3.0"]) == [(series, "4.3.0") for series in matrix.PYTHONS]


def test_a_python_that_is_not_supported_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        matrix.main(["--pairs", "2.7/4.2.5"])
    assert status.value.code == 2
    assert "2.7/4.2.5" in capsys.readouterr().err


# --- which Pythons


def test_a_shim_that_starts_nothing_is_passed_over_for_the_newest_of_pyenv(python: Callable[..., Path]) -> None:
    python("3.9.1").write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    python("3.9.2", path=".pyenv/versions/3.9.2/bin/python3.9")
    newest = python("3.9.18", path=".pyenv/versions/3.9.18/bin/python3.9")
    python("3.9.20", path=".pyenv/versions/3.9.0rc1/bin/python3.9")
    assert matrix.find("3.9", os.environ) == matrix.Python("3.9", "3.9.18", str(newest))


def test_a_program_that_is_another_python_than_its_name_says_is_passed_over(python: Callable[..., Path]) -> None:
    python("3.11.7", path="bin/python3.9")
    assert matrix.find("3.9", os.environ) is None


def test_a_python_that_this_machine_lacks_is_said_and_is_no_failure(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    python("3.9.1")
    assert matrix.main(["--pairs", ""]) == 0
    found = rows(capsys)
    assert len(found) == 10
    assert found[2] == ["3.10", "4.2.5", "this", "machine", "has", "no", "Python", "3.10"]


def test_it_is_a_failure_where_it_was_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 1
    assert rows(capsys) == [["3.9", "4.2.5", "this", "machine", "has", "no", "Python", "3.9"]]


def test_no_python_at_all_is_a_failure() -> None:
    assert matrix.main([]) == 1


# --- one pair


def test_a_pair_is_a_line_with_its_numbers(python: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    python("3.9.1")
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 0
    assert rows(capsys) == [["3.9.1", "4.2.5", "5", "0", "7"]]


def test_a_failed_test_is_a_failed_pair_and_the_next_is_run_all_the_same(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    python("3.9.1", counts='tests="9" failures="2" errors="1" skipped="0"', tests="exit 1")
    python("3.10.1")
    assert matrix.main(["--pairs", "3.9/4.2.5 3.10/4.3.0"]) == 1
    assert rows(capsys) == [["3.9.1", "4.2.5", "6", "3", "7"], ["3.10.1", "4.3.0", "5", "0", "7"]]


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo Collecting; echo ERROR: Nothing fits; echo ERROR: Read this", "pip failed: ERROR: Nothing fits (see "),
        ("echo Collecting; echo Killed", "pip failed: Killed (see "),
        ("true", "pip failed: exit status 1 (see "),
    ],
    ids=["an error", "no word of error", "nothing"],
)
def test_a_pair_that_cannot_be_installed_says_why_and_has_failed(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str], says: str, told: str
) -> None:
    python("3.9.1", install=f"{says}; exit 1")
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 1
    assert told in " ".join(rows(capsys)[0])


def test_tests_that_do_not_come_to_their_end_have_failed(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    python("3.9.1", tests='rm "${3#--junit-xml=}"; exit 139')
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 1
    assert "pytest did not come to its end, exit status 139" in " ".join(rows(capsys)[0])


@pytest.mark.parametrize(
    ("counts", "status", "note"),
    [
        ('tests="0" failures="0" errors="0" skipped="0"', 5, "exit status 5"),
        (GOOD, 3, "exit status 3"),
        ('tests="5" failures="0" errors="0" skipped="2"', 0, "2 skipped"),
    ],
    ids=["nothing was collected", "a bad end", "some were skipped"],
)
def test_numbers_without_a_failure_do_not_hide_what_went_wrong(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str], counts: str, status: int, note: str
) -> None:
    python("3.9.1", counts=counts, tests=f"exit {status}")
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 1
    assert note in " ".join(rows(capsys)[0])


def test_tests_that_hang_are_ended(
    python: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "TESTS_WITHIN", 0.3)
    monkeypatch.setattr(matrix, "PATIENCE", 0.2)
    python("3.9.1", tests="exec sleep 60")
    assert matrix.main(["--pairs", "3.9/4.2.5"]) == 1
    assert "did not end within 0.3 s" in " ".join(rows(capsys)[0])


def interrupt_when(there: Path) -> None:
    """Ctrl-C for this process, when the file is there."""
    eventually(there.exists, within=30.0)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_all_and_is_no_traceback(
    python: Callable[..., Path], machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "PATIENCE", 0.2)
    python("3.9.1", tests=f"echo $$ >{machine}/pid; exec sleep 60")
    threading.Thread(target=interrupt_when, args=(machine / "pid",), daemon=True).start()
    assert matrix.main(["--pairs", "3.9"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    pid = int((machine / "pid").read_text(encoding="ascii"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_environment_is_made_once_and_anew_when_what_is_required_has_changed(
    python: Callable[..., Path], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = machine / "place" / "3.9-4.2.5.log"
    python("3.9.1")
    matrix.main(["--pairs", "3.9/4.2.5"])
    assert " install " in log.read_text(encoding="utf-8")
    matrix.main(["--pairs", "3.9/4.2.5"])
    assert " install " not in log.read_text(encoding="utf-8")
    os.utime(machine / "place" / "3.9-4.2.5" / "installed", (0, 0))
    matrix.main(["--pairs", "3.9/4.2.5"])
    assert " install " in log.read_text(encoding="utf-8")


def test_supervisor_4_2_gets_what_it_needs_and_does_not_say(python: Callable[..., Path], machine: Path) -> None:
    python("3.9.1")
    matrix.main(["--pairs", "3.9"])
    texts = [(machine / "place" / f"3.9-{v}.log").read_text(encoding="utf-8") for v in matrix.SUPERVISORS]
    assert ["supervisor42" in text for text in texts] == [True, False]


def test_what_is_said_behind_two_dashes_is_for_pytest(python: Callable[..., Path], machine: Path) -> None:
    python("3.9.1")
    matrix.main(["--pairs", "3.9/4.2.5", "--prefix", "/usr/bin/env A=b", "--", "-k", "x or y"])
    text = (machine / "place" / "3.9-4.2.5.log").read_text(encoding="utf-8")
    assert "$ /usr/bin/env A=b " in text
    assert text.splitlines()[-1].endswith(" -k 'x or y'")
