"""The plugin in a stack, with the sections and the policy of ``conf/``: what users copy is what is tested."""

from __future__ import annotations

import configparser
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.site import PATHS
from tests.support.stack import GROUP, ROOT

SECTIONS = ("rpcinterface:rolling", "ctlplugin:rolling", "eventlistener:rolling")
INSTALLED = "supervisor_rolling_listener --config /etc/supervisor/rolling.yaml"


def sections(policy_file: Path, prefix: str = "", module: str = "supervisor_rolling.listener") -> str:
    """The three sections of conf/supervisord.conf, with another policy file and this interpreter.

    ``prefix`` is put before the listener's command; ``module`` is run as the listener.
    """
    conf = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    conf.read(ROOT / "conf" / "supervisord.conf")
    found = {name: dict(conf[name]) for name in SECTIONS}
    listener = found["eventlistener:rolling"]
    assert listener["command"] == INSTALLED, "conf/supervisord.conf has another command of the listener"
    listener["command"] = f"{prefix}{shlex.quote(sys.executable)} -m {module} --config {policy_file}"
    listener["directory"] = str(ROOT)
    return "\n".join(_section(name, values) for name, values in found.items())


def policy(warm_all: bool = True, **changes: Any) -> str:
    """conf/rolling.yaml, but with ports by name, short deadlines, and the demo application's pages to warm up.
    ``changes`` are keys of the group. min_ready_seconds is 0, because the stack's nginx has max_fails=0. No history is
    kept: its file would be this host's."""
    example = yaml.safe_load((ROOT / "conf" / "rolling.yaml").read_text(encoding="utf-8"))
    group = example["groups"][GROUP]
    group["ports"] = r"app-(\d+)"
    group["warmup"] = {"timeout": 20, "ready": "/health", "requests": list(PATHS) if warm_all else ["/health"]}
    group["min_ready_seconds"] = 0
    gate, history = changes.pop("gate", {}), changes.pop("history", False)
    top = {"gate": {**example["gate"], **gate}, "history": history, "metrics": changes.pop("metrics", {})}
    return yaml.safe_dump({**top, "groups": {GROUP: {**group, **changes}}})


def _section(name: str, values: dict[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]) + "\n"
