"""An Ansible connection to a host of the lab: commands run in its network namespace, files are this machine's.

``ansible_netns`` is the path of the namespace (``tests.support.hosts``). Where there is none, the host is unreachable.
Where there is a file ``ansible_netns_cut`` the connection is lost, also in the middle of a command, which ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from typing import IO, Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: netns
short_description: a network namespace of this machine
description: Runs commands in a network namespace.
options:
  netns:
    description: The path of the namespace.
    type: str
    required: true
    vars:
      - name: ansible_netns
  cut:
    description: The path of a file; where there is one, the connection is lost.
    type: str
    default: ""
    vars:
      - name: ansible_netns_cut
  pipelining:
    description: Modules are piped into their interpreter.
    type: bool
    default: true
    vars:
      - name: ansible_pipelining
"""


LOOK_EVERY = 0.05
"""Seconds between two looks at whether the connection is lost."""


class Connection(ConnectionBase):
    """See the module. Nothing is kept open between two commands."""

    transport = "netns"
    has_pipelining = True

    def _connect(self) -> Connection:
        path = self.get_option("netns")
        if not os.path.exists(path) or os.path.exists(self.get_option("cut")):
            raise AnsibleConnectionFailure(f"there is no way to {path}")
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Exit status, output, errors."""
        self._connect()
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        command = ["nsenter", f"--net={self.get_option('netns')}", "--", "sh", "-c", cmd]
        with tempfile.TemporaryFile() as given:  # communicate() goes on with what is read, not with what is written
            given.write(in_data or b"")
            given.seek(0)
            return self._watched(command, given)

    def _watched(self, command: list[str], given: IO[bytes]) -> tuple[int, bytes, bytes]:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=given, stdout=pipe, stderr=pipe, start_new_session=True) as child:
            while True:
                try:
                    output, errors = child.communicate(timeout=LOOK_EVERY)
                    return child.returncode, output, errors
                except subprocess.TimeoutExpired:
                    if os.path.exists(self.get_option("cut")):
                        os.killpg(child.pid, signal.SIGKILL)
                        raise AnsibleConnectionFailure("the connection is lost") from None

    def put_file(self, in_path: str, out_path: str) -> Any:
        """Copies on this machine."""
        super().put_file(in_path, out_path)
        shutil.copyfile(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> Any:
        """Copies on this machine."""
        super().fetch_file(in_path, out_path)
        shutil.copyfile(in_path, out_path)

    def close(self) -> None:
        """There is nothing to close."""
        self._connected = False
