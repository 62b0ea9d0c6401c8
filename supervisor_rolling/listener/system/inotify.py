"""Hears of new names in directories, by inotify(7): within 0.1 ms, where a look every few ms would find them late."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Collection

_IN_CLOEXEC = 0o2000000
_IN_CREATE, _IN_MOVED_TO, _IN_IGNORED, _IN_ONLYDIR = 0x100, 0x80, 0x8000, 0x01000000
_EVENT = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_BUFFER = 65536


class NewNames:
    """Calls ``on_name`` with the path of each name that appears in a watched directory, from a thread of its own."""

    def __init__(self, on_name: Callable[[str], None]) -> None:
        """Raises OSError where the kernel has no inotify, or this user no instance left."""
        self._on_name = on_name
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._called(self._libc.inotify_init1(_IN_CLOEXEC))
        self._lock = threading.Lock()
        self._watches: dict[int, frozenset[str]] = {}  # the names of each directory: symbolic links lead to it, too
        threading.Thread(target=self._listen, name="new sockets", daemon=True).start()

    def watch(self, directories: Collection[str]) -> None:
        """Watch exactly these directories, as far as they exist. Cheap where nothing has changed. Raises OSError."""
        with self._lock:
            self._watches = {number: names.intersection(directories) for number, names in self._watches.items()}
            for number in [number for number, names in self._watches.items() if not names]:
                self._libc.inotify_rm_watch(self._fd, number)
                del self._watches[number]
            for directory in set(directories).difference(*self._watches.values()):
                mask = _IN_CREATE | _IN_MOVED_TO | _IN_ONLYDIR
                number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask)
                if number >= 0 or ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):
                    known = self._watches.get(self._called(number), frozenset())
                    self._watches[number] = known | {directory}

    def _called(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _listen(self) -> None:
        while True:
            data, at = os.read(self._fd, _BUFFER), 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                directories = self._watches.get(number, frozenset())
                if mask & _IN_IGNORED:  # the directory is gone: another one of its name is watched anew
                    with self._lock:
                        self._watches.pop(number, None)
                elif name:
                    for directory in directories:
                        self._on_name(os.path.join(directory, os.fsdecode(name)))
