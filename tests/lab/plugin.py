"""The plugin in a stack: the sections and the policy as ``conf/`` has them, so that what users copy is what is tested."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.lab.site import PATHS
from tests.lab.stack import GROUP, ROOT

SECTIONS = ("rpcinterface:rolling", "ctlplugin:rolling", "eventlistener:rolling")
INSTALLED = "supervisor_rolling_listener --config /etc/supervisor/rolling.yaml"


def sections(policy_file: Path, **changes: str) -> str:
    """The three sections of conf/supervisord.conf, with another policy file and this interpreter.

    ``changes`` are options of the listener's section.
    """
    conf = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    conf.read(ROOT / "conf" / "supervisord.conf")
    listener = dict(conf["eventlistener:rolling"])
    assert listener["command"] == INSTALLED, "conf/supervisord.conf starts the listener otherwise than the lab knows"
    listener["command"] = f"{sys.executable} -m supervisor_rolling.listener --config {policy_file}"
    options = {
        **{name: dict(conf[name]) for name in SECTIONS[:2]},
        SECTIONS[2]: {**listener, "directory": str(ROOT), **changes},
    }
    return "\n".join(_section(name, values) for name, values in options.items())


def policy(warm_all: bool = True, **changes: Any) -> str:
    """conf/rolling.yaml with the demo application's pages to warm and quick deadlines. ``changes`` are the group's keys."""
    example = yaml.safe_load((ROOT / "conf" / "rolling.yaml").read_text(encoding="utf-8"))
    group = example["groups"][GROUP]
    group["warmup"] = {"timeout": 20, "ready": "/health", "requests": list(PATHS) if warm_all else ["/health"]}
    gate = changes.pop("gate", {})
    return yaml.safe_dump({"gate": {**example["gate"], **gate}, "groups": {GROUP: {**group, **changes}}})


def _section(name: str, values: dict[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]) + "\n"
