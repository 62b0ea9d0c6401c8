"""The import law: what is pure stays pure, what runs in supervisord light, and adapters know nothing of each other."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import supervisor_rolling

PACKAGE = "supervisor_rolling"
ROOT = Path(supervisor_rolling.__file__).parent
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
STDLIB: frozenset[str] = frozenset(
    getattr(sys, "stdlib_module_names", ())  # since Python 3.10
    or {*sys.builtin_module_names, *(p.name.partition(".")[0] for p in (*LIBRARY.glob("*"), *LIBRARY.glob("*/*.so")))}
)

IMPURE = {"time", "os", "select", "signal", "socket", "subprocess", "logging", "random", "threading"}
HEAVY = {"yaml", "requests", "iptc", "crossplane"}
FORBIDDEN_IN_SUPERVISORD = HEAVY | {"threading", "subprocess", "multiprocessing", f"{PACKAGE}.listener"}

VALUES = {
    f"{PACKAGE}.core.{name}"
    for name in (
        *("policy", "process", "connections", "port_use", "rollout", "actions", "guard_state", "jobs", "observation"),
        *("preflight_report", "snapshot", "errors", "endpoint", "share", "text", "reason"),
    )
}
"""The values that all others pass to each other: they import each other and nothing else of ours."""
CONTRACTS = f"{PACKAGE}.listener.contracts"
BETWEEN = {
    f"{PACKAGE}.listener.{name}"
    for name in (
        *("actions", "apply", "assembly", "crash_guard", "drain_observer", "gatekeeper", "group_errors", "held_ports"),
        *("keepalive_pools", "live_groups", "load_balancers", "observe", "own_endpoints", "preflight"),
        *("publisher", "reconciler", "request_handler", "reuse_observer", "rollout_requests", "workers"),
    )
}
"""What stands between the adapters and what is pure: it knows the adapters by their contracts alone."""

DECIDERS = {f"{PACKAGE}.core.{name}" for name in ("machine", "stages", "guard", "admission")} | BETWEEN
ADAPTERS = {
    "background",
    "balancer_config",
    "client_discovery",
    "config",
    "death_watch",
    "drain_flags",
    "drain_notification",
    "event_protocol",
    "gate_probe",
    "gates",
    "history_file",
    "hook_runner",
    "keepalive_closer",
    "kernel_sockets",
    "policy_file",
    "prometheus",
    "request_sniffer",
    "supervisor_client",
    "warmup",
}
"""Modules and folders of the listener that touch the world. What several of them need is in listener/system/."""

SYSTEM = f"{PACKAGE}.listener.system"


def _sources() -> dict[str, str]:
    """The text of every module, by its full name; a package is called like its folder."""
    files = {path: path.relative_to(ROOT.parent).with_suffix("").parts for path in ROOT.rglob("*.py")}
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path.read_text(encoding="utf-8")
        for path, parts in files.items()
    }


def imports(source: str, modules: frozenset[str]) -> set[str]:
    """All that a text imports, wherever in it; ``from package import module`` is an import of the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            full = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in modules else str(node.module) for name in full}
    return found


SOURCES = _sources()
MODULES = frozenset(SOURCES)
IMPORTS = {module: imports(source, MODULES) for module, source in SOURCES.items()}


def under(*names: str) -> list[str]:
    """The modules of these names and of the folders of these names, their packages among them."""
    full = [f"{PACKAGE}.{name}" for name in names]
    return sorted(m for m in MODULES if any(m == name or m.startswith(f"{name}.") for name in full))


def parents(module: str) -> Iterator[str]:
    """Python runs the packages above a module before the module."""
    parts = module.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


def reach(start: list[str]) -> dict[str, str]:
    """All that comes with these modules, from whatever depth in this package, each with who imports it."""
    found, waiting = dict.fromkeys(start, "itself"), list(start)
    while waiting:
        module = waiting.pop()
        for name in sorted(IMPORTS[module] | set(parents(module)) & MODULES):
            if name not in found:
                found[name] = module
                waiting += [name] if name in MODULES else []
    return found


def named(name: str, forbidden: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in forbidden)


def adapter_of(module: str) -> str:
    """Which adapter a module belongs to; empty for one that is none."""
    parts = module.split(".")
    is_adapter = parts[:2] == [PACKAGE, "listener"] and len(parts) > 2 and parts[2] in ADAPTERS
    return parts[2] if is_adapter else ""


# --- the law reads what it is about


def test_nested_imports_are_found() -> None:
    source = """
def f():
    import time as t
    from supervisor_rolling.core import machine
from os.path import join
"""
    assert imports(source, MODULES) == {"time", "supervisor_rolling.core.machine", "os.path"}


def test_indirect_imports_are_found() -> None:
    assert reach(["supervisor_rolling.listener.main"])["iptc"].startswith("supervisor_rolling.listener.gates.")
    assert reach(["supervisor_rolling.listener.main"])["yaml"].startswith("supervisor_rolling.listener.config.")


def test_every_adapter_of_the_law_exists() -> None:
    assert {adapter_of(module) for module in MODULES} - {""} == ADAPTERS
    assert MODULES >= DECIDERS | VALUES


def test_every_listener_module_has_its_place() -> None:
    rest = {module for module in under("listener") if not adapter_of(module)}
    assert rest == BETWEEN | {
        CONTRACTS,
        *under("listener.system"),
        f"{PACKAGE}.listener",
        f"{PACKAGE}.listener.main",
        f"{PACKAGE}.listener.__main__",
        f"{PACKAGE}.listener.inspection",  # another entry, which puts adapters together for `setup`
    }


# --- the law


@pytest.mark.parametrize("module", under("core"))
def test_core_imports_core_and_pure_stdlib(module: str) -> None:
    ours = {name for name in IMPORTS[module] if name.startswith(PACKAGE)}
    assert ours <= VALUES | set(under("core"))
    others = {name.partition(".")[0] for name in IMPORTS[module] - ours}
    assert others <= STDLIB - IMPURE


def test_the_values_do_not_import_what_decides() -> None:
    assert {name: IMPORTS[name] & (set(under("core")) - VALUES) for name in VALUES} == {name: set() for name in VALUES}


@pytest.mark.parametrize("module", under("rpcinterface", "plugin"))
def test_nothing_in_supervisord_brings_threads_children_or_libraries(module: str) -> None:
    bad = {name: by for name, by in reach([module]).items() if named(name, FORBIDDEN_IN_SUPERVISORD)}
    assert bad == {}


@pytest.mark.parametrize("module", under("rpcinterface", "plugin"))
def test_plugin_imports_values_codec_and_itself_alone(module: str) -> None:
    ours = {name for name in IMPORTS[module] if named(name, {PACKAGE})}
    others = under("codec", "packing", "core.process_states", "core.public_view", "plugin")
    assert ours <= {PACKAGE, *VALUES, *others}  # of the package itself, its version
    assert {name.partition(".")[0] for name in IMPORTS[module] - ours} <= STDLIB | {"supervisor"}


@pytest.mark.parametrize("module", under("controllerplugin", "ctl"))
def test_nothing_in_supervisorctl_brings_libraries(module: str) -> None:
    assert {name: by for name, by in reach([module]).items() if named(name, HEAVY)} == {}


@pytest.mark.parametrize("module", [module for module in sorted(MODULES) if adapter_of(module)])
def test_adapter_imports_no_adapter_and_no_decider(module: str) -> None:
    assert {adapter_of(name) for name in IMPORTS[module]} <= {"", adapter_of(module)}
    assert not IMPORTS[module] & DECIDERS


@pytest.mark.parametrize("module", under("listener.system"))
def test_the_system_folder_imports_core_and_itself_alone(module: str) -> None:
    ours = {name for name in IMPORTS[module] if named(name, {PACKAGE})}
    assert ours <= {*under("core", "draining", "file_trust", "listener.system")}


def test_there_is_no_import_circle() -> None:
    order = graphlib.TopologicalSorter({module: IMPORTS[module] & MODULES - {module} for module in MODULES})
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", under("plugin", "ctl", "core", "codec", "file_trust", "packing"))
def test_only_the_listener_imports_the_listener(module: str) -> None:
    assert {name for name in IMPORTS[module] if named(name, {f"{PACKAGE}.listener"})} == set()


@pytest.mark.parametrize("module", [*sorted(BETWEEN), CONTRACTS])
def test_decider_reaches_no_adapter(module: str) -> None:
    found = reach([module])
    assert {name: by for name, by in found.items() if adapter_of(name)} == {}
    assert {name: by for name, by in found.items() if named(name, (IMPURE | HEAVY) - {"logging"})} == {}


@pytest.mark.parametrize("module", under("draining", "in_process", "wsgi", "asgi"))
def test_application_modules_need_only_the_stdlib(module: str) -> None:
    found = reach([module]).keys()
    assert {name.partition(".")[0] for name in found - MODULES} <= STDLIB
    assert found & MODULES <= {
        PACKAGE,
        *under("draining", "in_process", "wsgi", "asgi"),
        *under("core.own_warmup"),
        f"{PACKAGE}.core",
    }


def test_only_main_imports_adapters_and_assembly() -> None:
    reconciler = f"{PACKAGE}.listener.reconciler"
    both = {m for m in MODULES if reconciler in IMPORTS[m] and any(adapter_of(name) for name in IMPORTS[m])}
    assert both == {f"{PACKAGE}.listener.main"}


@pytest.mark.parametrize("module", ["rpcinterface", "controllerplugin"])
def test_shims_load_no_library_of_the_listener(module: str) -> None:
    code = f"import sys, {PACKAGE}.{module}; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent)
    names = set(loaded.stdout.split())
    assert f"{PACKAGE}.{module}" in names
    assert {name for name in names if named(name, HEAVY | {f"{PACKAGE}.listener"})} == set()
