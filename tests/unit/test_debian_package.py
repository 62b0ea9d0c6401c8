"""What the Debian package has in it: ``conf/debian/build.sh``. What it does on a host: ``tests/support/deb.py``."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor_rolling.listener import config
from supervisor_rolling.listener.balancer_config import BUNDLED

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is Debian's"),
]

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "usr/lib/python3/dist-packages"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked."""
    directory = tmp_path_factory.mktemp("deb")
    build = ["sh", "conf/debian/build.sh", sys.executable, "1.2.3", str(directory), str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    unpacked = directory / "unpacked"
    made = directory / "supervisor-rolling_1.2.3_all.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", str(made), str(unpacked)], check=True)
    return unpacked


def test_drop_in_names_the_programs_by_path(package: Path) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(package / "usr/share/supervisor-rolling/rolling.conf", encoding="utf-8")
    assert parser.sections() == ["rpcinterface:rolling", "eventlistener:rolling"]
    program, *arguments = parser["eventlistener:rolling"]["command"].split()
    assert (package / program.lstrip("/")).is_file()
    assert arguments == ["--config", "/etc/supervisor/rolling.yaml"]


def test_rolling_yaml_is_valid_without_a_group(package: Path) -> None:
    assert config.load(str(package / "etc/supervisor/rolling.yaml")).groups == {}


def test_every_file_of_etc_is_a_conffile(package: Path) -> None:
    files = [f"/{path.relative_to(package)}" for path in (package / "etc").rglob("*") if not path.is_dir()]
    assert files == (package / "DEBIAN/conffiles").read_text(encoding="ascii").split()


def test_bundled_crossplane_needs_no_other(package: Path) -> None:
    code = (
        f"import sys; sys.path[:] = [{str(package / PACKAGES / 'supervisor_rolling/bundled')!r}, *sys.path]; "
        "import crossplane, crossplane.ext.lua; print(crossplane.__file__)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.startswith(str(package / PACKAGES / BUNDLED.relative_to(ROOT)))


@pytest.mark.parametrize("name", ["supervisor_rolling", "supervisor_rolling_listener", "echo_rolling_conf"])
def test_program_runs_with_the_python_of_debian(package: Path, name: str) -> None:
    lines = (package / "usr/bin" / name).read_text(encoding="ascii").splitlines()
    assert lines[0] == "#!/usr/bin/python3"
    code = "\n".join(lines[1:-1])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
