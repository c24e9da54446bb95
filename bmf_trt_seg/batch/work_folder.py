"""Folders for files in the making, that can be told from those of processes that are gone."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path

__all__ = ["WorkFolder", "clear_dead"]

_PREFIX = "bmf-trt-seg-work-"
_LOCK = "lock"


class WorkFolder:
    """A new folder below `parent`, this process's own until it is closed or the process is gone, however it went."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        self._lock = (made / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # it gets the name that others look at when it is locked
        self.path = made.rename(parent / f"{_PREFIX}{made.name.removeprefix('.new-')}")

    def clear(self) -> None:
        """Remove everything in it."""
        for path in self.path.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def clear_dead(parent: Path) -> bool:
    """Remove the folders of processes that are gone: the kernel takes back their locks, also on NFS.

    Whether none of another process is left.
    """
    is_clear = True
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # its process has removed it meanwhile
            continue
        except OSError:
            is_clear = False
    return is_clear
