"""The test suite on each supported Python of this machine, against each supervisor: ``make matrix``.

Each pair of a Python and a supervisor has its own virtual environment in ``.venv-matrix``, with the requirements of
pyproject.toml, and its line of output: how many tests passed and failed in how many seconds. The output of a pair's
tests is in a log beside its environment: ``.venv-matrix/3.9-4.2.5.log``. A pair is written ``3.9/4.2.5``; ``3.9`` means
that Python with every supervisor, ``/4.2.5`` that supervisor on every Python.

Searches for ``python3.9`` and so on in the PATH and in pyenv's folder. Names each Python that this machine lacks: a
failure only if PAIRS asks for it. Exit status: 0 every pair passed; 1 a pair failed, or there was none; 2 usage;
130 Ctrl-C.

Needs nothing but the standard library, so that any Python can run it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".venv-matrix"

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
SUPERVISORS = ("4.2.5", "4.3.0")

ANSWER_TIMEOUT = 20.0
"""Seconds for a Python to say which it is."""

INSTALL_WITHIN = 900.0
"""Seconds to install a pair: python-iptables is compiled, and the package index may be slow."""

TESTS_WITHIN = 3600.0
"""Seconds for the tests of one pair; they take about ten minutes."""

PATIENCE = 60.0
"""Seconds for what is interrupted to stop what it has started."""

WHO = "import sys, venv, ensurepip; print('%d.%d.%d' % sys.version_info[:3])"
"""A Python that cannot make a virtual environment is of no use here."""

ROW = "{:<9} {:<11} {:>7} {:>7} {:>8}  {}"


class MatrixError(Exception):
    """Why a pair has no result: what happened, and where to look."""


@dataclass(frozen=True)
class Python:
    """``series`` is "3.9", ``version`` "3.9.18", ``program`` the path of an interpreter."""

    series: str
    version: str
    program: str


@dataclass(frozen=True)
class Pair:
    python: Python
    supervisor: str

    @property
    def name(self) -> str:
        return f"{self.python.series}-{self.supervisor}"

    @property
    def log(self) -> Path:
        return PLACE / f"{self.name}.log"


@dataclass(frozen=True)
class Result:
    """Of one pair. ``note`` says what the numbers do not."""

    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        return self.passed > 0 and not self.failed and not self.note


# --- which pairs


def selected(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Python and supervisor of each pair that the command line means, in order. Raises ValueError."""
    return list(dict.fromkeys(pair for text in texts or ["/"] for pair in _meant(text)))


def _meant(text: str) -> list[tuple[str, str]]:
    series, _, supervisor = text.partition("/")
    if series and series not in PYTHONS:
        raise ValueError(f"{text}: a pair is written 3.9/4.2.5, 3.9 or /4.2.5, with Python {', '.join(PYTHONS)}")
    return [(p, s) for p in ([series] if series else PYTHONS) for s in ([supervisor] if supervisor else SUPERVISORS)]


def find(series: str, environment: Mapping[str, str]) -> Python | None:
    """The first Python of this series that works; pyenv's shims stand in the PATH for versions that are not chosen."""
    answers = (Python(series, _version(program), program) for program in _candidates(series, environment))
    return next((python for python in answers if python.version.startswith(f"{series}.")), None)


def _candidates(series: str, environment: Mapping[str, str]) -> Iterator[str]:
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        yield str(Path(folder) / f"python{series}")
    pyenv = environment.get("PYENV_ROOT") or str(Path(environment.get("HOME", "/")) / ".pyenv")
    found = Path(pyenv, "versions").glob(f"{series}.*/bin/python{series}")
    yield from sorted(map(str, found), key=_patch, reverse=True)


def _patch(program: str) -> int:
    last = Path(program).parts[-3].split(".")[2]
    return int(last) if last.isdigit() else -1  # 3.13.0rc1, 3.13-dev: not before a release


def _version(program: str) -> str:
    if not os.access(program, os.X_OK):
        return ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([program, "-c", WHO], capture_output=True, text=True, timeout=ANSWER_TIMEOUT, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


# --- one pair


def installed(pair: Pair) -> str:
    """The interpreter of the pair's environment; made again if pyproject.toml is newer. Raises MatrixError."""
    python, done = str(PLACE / pair.name / "bin" / "python"), PLACE / pair.name / "installed"
    if done.exists() and done.stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime:
        return python
    _run(pair, "it cannot be made", [pair.python.program, "-m", "venv", "--clear", str(PLACE / pair.name)])
    _run(pair, "pip failed", [*_pip(python), "install", "--use-pep517", *_requirements(pair.supervisor)])
    _run(pair, "what is installed does not fit together", [*_pip(python), "check"])
    done.touch()
    return python


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def _requirements(supervisor: str) -> list[str]:
    """pyproject.toml knows what supervisor 4.2 needs more than it says itself."""
    extras = "demo,test,supervisor42" if supervisor.startswith("4.2.") else "demo,test"
    return [f"supervisor=={supervisor}", "--editable", f".[{extras}]"]


def tested(pair: Pair, python: str, prefix: Sequence[str], arguments: Sequence[str]) -> Result:
    """Run the suite. Raises MatrixError where it does not come to its end."""
    report = PLACE / f"{pair.name}.xml"
    report.unlink(missing_ok=True)
    command = [*prefix, python, "-m", "pytest", f"--junit-xml={report}", *arguments]
    status = _logged(pair, command, TESTS_WITHIN)
    if not report.exists():
        raise MatrixError(f"pytest did not come to its end, exit status {status}")
    return _read(report, status)


def _read(report: Path, status: int) -> Result:
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    total, *other = (int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped"))
    failed, skipped = other[0] + other[1], other[2]
    notes = [f"{skipped} skipped" if skipped else "", f"exit status {status}" if status and not failed else ""]
    seconds = float(suite.get("time", "0"))
    return Result(total - failed - skipped, failed, seconds, ", ".join(note for note in notes if note))


def _run(pair: Pair, problem: str, command: Sequence[str]) -> None:
    status = _logged(pair, command, INSTALL_WITHIN)
    if status:
        raise MatrixError(f"{problem}: {_reason(pair.log) or f'exit status {status}'}")


def _reason(log: Path) -> str:
    """What pip says first, which is what; the last that it says is where to read more."""
    lines = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2].strip().splitlines()[1:]
    return next((line for line in lines if line.startswith("ERROR: ")), lines[-1] if lines else "")


def _logged(pair: Pair, command: Sequence[str], timeout: float) -> int:
    """Run it with its output in the pair's log; gives its exit status. It has SIGINT as a terminal would leave it."""
    with pair.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        return child.wait(timeout)
    except subprocess.TimeoutExpired:
        raise MatrixError(f"{command[0]} did not end within {timeout:g} s") from None
    except KeyboardInterrupt:  # the terminal has told the child, too, and a second one would cut its end short
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE)
        raise
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Nothing where it has ended. SIGINT first: pytest then stops what its tests have started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)


# --- all of them


def run(pairs: Iterable[tuple[str, str]], named: bool, prefix: Sequence[str], arguments: Sequence[str]) -> int:
    """One line a pair, as soon as it is known; gives the exit status. ``named``: a Python that is not here is a
    failure."""
    PLACE.mkdir(exist_ok=True)
    print(ROW.format("python", "supervisor", "passed", "failed", "seconds", "").rstrip(), flush=True)
    verdicts = [_verdict(series, supervisor, named, prefix, arguments) for series, supervisor in pairs]
    bad = verdicts.count(False)
    known = len(verdicts) - verdicts.count(None)
    print(f"{known - bad} of {known} pairs passed; the logs are in {PLACE}", flush=True)
    return 1 if bad or not known else 0


def _verdict(series: str, supervisor: str, named: bool, prefix: Sequence[str], arguments: Sequence[str]) -> bool | None:
    """Whether the pair passed; None for a Python that is missing and was not named."""
    python = find(series, os.environ)
    if python is None:
        print(ROW.format(series, supervisor, "", "", "", f"this machine has no Python {series}"), flush=True)
        return False if named else None
    result = _result(Pair(python, supervisor), prefix, arguments)
    print(_line(python, supervisor, result), flush=True)
    return result.good


def _result(pair: Pair, prefix: Sequence[str], arguments: Sequence[str]) -> Result:
    pair.log.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        return tested(pair, installed(pair), prefix, arguments)
    except MatrixError as error:
        return Result(seconds=time.monotonic() - began, note=f"{error} (see {pair.log})")


def _line(python: Python, supervisor: str, result: Result) -> str:
    line = ROW.format(python.version, supervisor, result.passed, result.failed, f"{result.seconds:.0f}", result.note)
    return line.rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the tests on several Pythons, against several supervisors.")
    parser.add_argument("--pairs", default="", help="such as '3.9/4.2.5 3.13' (default: all)")
    parser.add_argument("--prefix", default="", help="what to put before pytest's command, such as sudo")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args(arguments)
    try:
        pairs = selected(options.pairs.split())
    except ValueError as error:
        parser.error(str(error))
    try:
        return run(pairs, bool(options.pairs), shlex.split(options.prefix), options.pytest)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
