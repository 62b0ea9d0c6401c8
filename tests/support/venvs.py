"""An environment with supervisord and without the plugin, as on a host before the installation.

It has what this one has (links), but for the plugin: so pip finds all that the plugin requires, and needs no index.
``wheel`` makes what is installed there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "README.rst", "pyproject.toml")
FOLDERS = ("supervisor_rolling", "conf/man", "conf/completion")

PROGRAMS = {"supervisord": "supervisor.supervisord", "supervisorctl": "supervisor.supervisorctl"}
"""The module of each, which has a ``main``."""

LEFT_OUT = ("supervisor_rolling", "__editable__", "__pycache__")
BUILD_WITHIN = 60.0  # seconds


def make(directory: Path) -> Path:
    """Make it there; gives the directory."""
    venv.create(directory, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    shared = directory / "shared"
    shared.mkdir()
    for found in _installed():
        (shared / found.name).symlink_to(found)
    (site / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    for name, module in PROGRAMS.items():
        _write_program(directory / "bin" / name, directory / "bin" / "python", module)
    return directory


def wheel(directory: Path) -> Path:
    """The wheel of this tree, made of a copy of it, in which setuptools may leave what it wants."""
    sources = directory / "sources"
    sources.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, sources)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(directory), str(sources)]
    subprocess.run(command, check=True, timeout=BUILD_WITHIN)
    (made,) = directory.glob("*.whl")
    return made


def _installed() -> list[Path]:
    """In the folders of this environment; of two of a name the first counts."""
    paths = sysconfig.get_paths()
    folders = dict.fromkeys((paths["purelib"], paths["platlib"]))
    found = {path.name: path for folder in reversed(folders) for path in Path(folder).iterdir()}
    return [path for name, path in found.items() if not name.startswith(LEFT_OUT) and path.suffix != ".pth"]


def _write_program(path: Path, python: Path, module: str) -> None:
    text = f"#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
