"""A clean Debian host in a chroot: what ``apt-get install`` and pip do to a new host, and nothing of this one.

``with AptHost(directory) as host:`` has processes and a network of its own, in which only loopback is up. A command
that needs a package index gets this machine's network (``online=True``). Needs root. All mounts are in a mount
namespace of this process, and end with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.netns import enter_private_network

PACKAGES = "ca-certificates,procps,python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED = ("PIP_", "http_proxy", "https_proxy", "no_proxy")
"""The beginnings of variables that say where this machine's package indexes are."""


class CommandFailed(Exception):
    """A command in the host failed; the text has its output."""


def bootstrap(directory: Path, suite: str, mirror: str) -> None:
    """A minimal Debian there."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(directory)]
    subprocess.run([*command, *([mirror] if mirror else [])], check=True, stdout=subprocess.DEVNULL)
    for name in ("resolv.conf", "hosts"):
        (directory / "etc" / name).write_bytes(Path("/etc", name).read_bytes())


def copied(base: Path, directory: Path) -> None:
    """A copy of a minimal Debian that was made before."""
    subprocess.run(["cp", "-a", "--reflink=auto", f"{base}/.", str(directory)], check=True)


class AptHost:
    """See the module. ``root`` is the host's root directory, as seen from here."""

    def __init__(self, root: Path, binds: Sequence[str] = ()) -> None:
        self.root = root
        self._binds = binds
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._init: subprocess.Popen[str] | None = None
        self._pid = 0

    def __enter__(self) -> AptHost:
        enter_private_network()
        self._mount("--bind", str(self.root), str(self.root))
        self._mount("--rbind", "/dev", str(self.root / "dev"))
        self._mount("--rbind", "/sys", str(self.root / "sys"))
        for name in ("tmp", "run"):
            self._mount("-t", "tmpfs", "tmpfs", str(self.root / name))
        for path in self._binds:
            (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            self._mount("--bind", "-o", "ro", path, str(self.root / path.lstrip("/")))
        begin = f"mount -t proc proc {self.root}/proc && echo up && exec sleep infinity"
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", begin]
        self._init = subprocess.Popen(unshare, stdout=subprocess.PIPE, text=True)
        assert self._init.stdout
        if self._init.stdout.readline() != "up\n":
            raise CommandFailed("the namespaces of the host cannot be made")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text(encoding="ascii")
        self._pid = int(children)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Ends every process of the host, and removes its mounts."""
        if self._init:
            self._init.kill()
            self._init.wait()
        subprocess.run(["umount", "--recursive", "--lazy", str(self.root)], check=True)

    def run(self, *command: str, online: bool = False, check: bool = True) -> str:
        """What a command in the host prints. Raises CommandFailed where it fails, unless ``check`` is false."""
        network = [f"--net=/proc/self/fd/{self._outside}"] if online else []
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--ipc", "--uts", *network]
        done = subprocess.run(
            [*enter, "chroot", str(self.root), *command],
            env=self._environment(),
            pass_fds=[self._outside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise CommandFailed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """A file of the host."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def has(self, path: str) -> bool:
        """Whether the host has a file."""
        return (self.root / path.lstrip("/")).exists()

    def _environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        return {"HOME": "/root", "LC_ALL": "C.UTF-8", "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", **passed}

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def temporary_root() -> Iterator[Path]:
    """A directory for a host, on a disk: /tmp may be in memory."""
    directory = Path(tempfile.mkdtemp(prefix="apt-host-", dir="/var/tmp"))
    try:
        yield directory
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory in which nothing is mounted any more: else what is mounted would be removed."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    left = [path for path in mounted if Path(path).is_relative_to(directory)]
    if left:
        raise CommandFailed(f"{directory} is not removed: {', '.join(left)} is mounted. Fix: umount it")
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)
