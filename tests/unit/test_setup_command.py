"""The dialogue of ``supervisor_rolling setup``: what it writes and removes, in which order, and its exit status."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor_rolling import skel
from supervisor_rolling.core.setup_facts import LISTENER, RPCINTERFACE, Host, InspectedGroup, Inspection, Section
from supervisor_rolling.core.setup_plan import signed
from supervisor_rolling.ctl.exit_status import DONE, FAILED, NO_GROUP, CommandError
from supervisor_rolling.ctl.setup import command

APP = InspectedGroup("app", {"app-0": (8000,), "app-1": (8001,)})
SEEN = Inspection("1.0", gate="nftables", groups=(APP,))


def host(directory: Path, *includes: str) -> Host:
    defaults = skel.sections(RPCINTERFACE, LISTENER)
    return Host(str(directory / "supervisord.conf"), includes or None, pid=7, listener="/x", defaults=defaults)


def options(**given: Any) -> argparse.Namespace:
    chosen = {"group": [], "yes": True, "reload": False, "dry_run": False, "remove": False}
    return argparse.Namespace(**{**chosen, **given})


def session(**answers: Any) -> Any:
    """It prints JSON into ``answers``; supervisord's answers are by method."""
    printed: list[Any] = []
    return SimpleNamespace(
        as_json=True,
        answers=printed,
        print=lambda answer, _: printed.append(answer),
        ask_packed=lambda method: answers[method],
        ask_supervisord=lambda method, *_: answers[method],
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets ``setup`` see a host."""

    def see(there: Host) -> None:
        found = SimpleNamespace(
            host=there, inspection=SEEN, inspected=lambda *_: replace(SEEN, policy_groups=("app",), groups=())
        )
        monkeypatch.setattr(command, "look", lambda _: found)
        monkeypatch.setattr(command, "look_at_files", lambda _: there)

    return see


def test_reload_without_include_is_a_failure(tmp_path: Path, seen: Any) -> None:
    seen(host(tmp_path))
    run = session()
    assert command.setup(run, options()) == DONE
    assert command.setup(run, options(dry_run=True, reload=True)) == DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rolling.conf", "rolling.yaml"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert command.setup(run, options(reload=True)) == FAILED
    assert [answer["loaded"] for answer in run.answers] == [False, False, False]


def test_unknown_group_has_its_exit_status(tmp_path: Path, seen: Any) -> None:
    seen(host(tmp_path))
    run = session()
    run.fail = lambda text, status: (_ for _ in ()).throw(CommandError(text, status))
    with pytest.raises(CommandError, match="supervisord has no group ap ") as caught:
        command.setup(run, options(group=["ap"]))
    assert (caught.value.status, list(tmp_path.iterdir())) == (NO_GROUP, [])


def test_sections_are_written_after_the_policy(tmp_path: Path, seen: Any) -> None:
    seen(host(tmp_path, str(tmp_path / "missing/*.conf")))
    with pytest.raises(CommandError, match=r"rolling\.conf cannot be written"):
        command.setup(session(), options())
    assert [path.name for path in tmp_path.iterdir()] == ["rolling.yaml"]


def test_remove_waits_for_the_end_of_a_rollout(tmp_path: Path, seen: Any) -> None:
    drop_in = tmp_path / "rolling.conf"
    drop_in.write_text(signed("[rpcinterface:rolling]\n", ";"), encoding="utf-8")
    sections = {RPCINTERFACE: Section(str(drop_in)), LISTENER: Section(str(drop_in), str(tmp_path / "rolling.yaml"))}
    files = {str(drop_in): drop_in.read_text(encoding="utf-8")}
    seen(replace(host(tmp_path), is_loaded=True, sections=sections, files=files))
    running = [{"group": "app", "status": "running"}]
    with pytest.raises(CommandError, match="a rollout of app is running, and nothing was removed"):
        command.setup(session(getAllRollouts=running), options(remove=True))
    assert drop_in.exists()
    ended = session(getAllRollouts=[], stopProcessGroup=[], removeProcessGroup=True)
    assert command.setup(ended, options(remove=True)) == DONE
    assert (drop_in.exists(), ended.answers) == (False, [{"removed": [str(drop_in)], "kept": []}])
