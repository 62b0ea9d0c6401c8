"""One run of a command: calls supervisord's methods, and prints answers and errors."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.text import readable, shown
from supervisor_rolling.ctl.command_hints import rewrite_commands, with_logs
from supervisor_rolling.ctl.exit_status import CONNECTION_ERRORS
from supervisor_rolling.ctl.output import Output


class Session:
    """One run of a command. ``program`` and ``where``: see ``command_hints.rewrite_commands``."""

    def __init__(self, controller: Any, program: str, where: str, as_json: bool, prints_page: bool) -> None:
        self._controller = controller
        self._program = program
        self._where = where
        self.output = Output(controller.stdout)
        self.url: str = controller.options.serverurl
        self.configuration: str = getattr(controller.options, "configfile", None) or ""  # supervisorctl's file
        self.as_json = as_json
        self.prints_page = prints_page  # the output is to be a document: errors go to standard error
        self.has_watched = False  # the exit status is that of the rollout, even if nothing more can be printed

    # --- supervisord

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of the namespace ``rolling``."""
        return self._read(getattr(self._controller.get_server_proxy("rolling"), method)(*arguments))

    def ask_packed(self, method: str, *arguments: Any) -> Any:
        """The same for an answer that has a whole rollout or every process: supervisord sends it compressed."""
        answer = self._controller.get_server_proxy("rolling").callPacked(method, list(arguments))
        return self._read(json.loads(zlib.decompress(answer.data)))

    def ask_json(self, method: str, *arguments: Any) -> Any:
        """The same for an answer that is a text of JSON, which has its own escapes."""
        return json.loads(getattr(self._controller.get_server_proxy("rolling"), method)(*arguments))

    def ask_supervisord(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of supervisord's own namespace."""
        return getattr(self._controller.get_server_proxy("supervisor"), method)(*arguments)

    def ask_methods(self) -> list[str]:
        """The full names of all methods that supervisord has."""
        return list(self._controller.get_server_proxy("system").listMethods())

    def process_info(self, name: str) -> Mapping[str, Any]:
        """``getProcessInfo``; empty if supervisord does not answer or does not know the process."""
        try:
            found = self._controller.get_supervisor().getProcessInfo(name)
        except CONNECTION_ERRORS:
            return {}
        return found if isinstance(found, dict) else {}

    def _read(self, answer: Any) -> Any:
        """An answer with its texts, which supervisord sends as ASCII, as they are to be shown."""
        if isinstance(answer, str):
            return self.called(readable(answer, "utf-8"))
        if isinstance(answer, list):
            return [self._read(one) for one in answer]
        if isinstance(answer, dict):
            return {key: self._read(value) for key, value in answer.items()}
        return answer

    # --- output

    def print(self, answer: Any, lines: Sequence[str]) -> None:
        """Print the lines or, with --json, the answer."""
        if self.as_json:
            self.output.write(json.dumps(answer) + "\n")
        else:
            self.output.print(shown(self.called("\n".join(lines)), self.output.encoding).split("\n"))

    def fail(self, text: str, status: int) -> None:
        """Print what went wrong; a text of several lines is a list of problems, or a heading and what stands below."""
        text = self.called(text)
        head, *more = text.splitlines() or [text]
        if more and not head.endswith(":"):
            head, more = f"{len(more) + 1} problems:", [head, *more]
        if self.prints_page and not self.output.is_terminal:
            self.output = Output(sys.stderr)
        self.print({"error": text, "exit_status": status}, [f"ERROR: {head}", *(f"  {one}" for one in more)])

    def called(self, text: str) -> str:
        """A text with commands that work when they are pasted."""
        return rewrite_commands(with_logs(text, self.process_info), self._program, self._where)
