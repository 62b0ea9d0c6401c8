"""An Ansible connection to a host of the lab: commands run in its network namespace, files are this machine's.

``ansible_netns`` is the path of the namespace (``tests.lab.hosts``). Where there is none, the host is unreachable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

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
  pipelining:
    description: Modules are piped into their interpreter.
    type: bool
    default: true
    vars:
      - name: ansible_pipelining
"""


class Connection(ConnectionBase):
    """See the module. Nothing is kept open between two commands."""

    transport = "netns"
    has_pipelining = True

    def _connect(self) -> Connection:
        path = self.get_option("netns")
        if not os.path.exists(path):
            raise AnsibleConnectionFailure(f"there is no {path}")
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Exit status, output, errors."""
        self._connect()
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        command = ["nsenter", f"--net={self.get_option('netns')}", "--", "sh", "-c", cmd]
        done = subprocess.run(command, input=in_data or b"", capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

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
