"""Where inputs and outputs lie: on a file system that all workers see, or in an object store such as S3.

Both know files by a string: an absolute path, or an address as 's3://bucket/name'. A file is there when it is complete.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bmf_trt_seg.errors import BackendUnavailable, StreamError

__all__ = ["Storage", "Stored", "is_remote", "joined", "storage_of"]


@dataclass(frozen=True)
class Stored:
    """A file, and by what it is told from another one of its name."""

    path: str
    size_bytes: int
    version: str
    """Time of its last change, or the object store's tag."""


class Storage(Protocol):
    """Files of one kind. All methods raise StreamError where the storage fails."""

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder, or objects whose names begin as if there were."""

    def stat(self, path: str) -> Stored | None:
        """The file of this name; None if there is none."""

    def files(self, folder: str) -> list[Stored]:
        """All files in a folder and those below, hidden ones too, in the order of their names."""

    def matches(self, pattern: str) -> list[Stored]:
        """The files that a pattern names, in the order of their names; '**' stands for folders in folders."""

    def read(self, path: str) -> bytes | None:
        """What a small file holds; None if there is none."""

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """What each of these small files holds."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, whole or not at all, making the folders above it."""

    def fetch(self, path: str, folder: Path) -> Path:
        """A local file with the content of `path`: itself, or a copy in `folder`."""

    def opened(self, path: str) -> Any:
        """A context manager that gives what PyAV can open: a path, or a file that reads what is asked for only."""

    def publish(self, local: Path, path: str) -> Stored:
        """Move a complete local file to `path`, in the place of what is there."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""


def is_remote(path: str) -> bool:
    """Whether this is an address."""
    return "://" in path


def joined(folder: str, *names: str) -> str:
    """A path or address below another."""
    return "/".join((folder.rstrip("/"), *names))


def storage_of(path: str) -> Storage:
    """What knows files as this one. Raises BackendUnavailable if the library for its kind of address is missing."""
    return _ObjectStore(path.partition("://")[0]) if is_remote(path) else _FileSystem()


class _FileSystem:
    """Local disks and NFS."""

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def stat(self, path: str) -> Stored | None:
        with _failing("read", path):
            try:
                facts = Path(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return Stored(path, facts.st_size, str(facts.st_mtime_ns))

    def files(self, folder: str) -> list[Stored]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError) or error.filename == folder:
                raise error  # other folders may have gone meanwhile

        with _failing("read", folder):
            found = [
                str(Path(parent) / name)
                for parent, _, names in os.walk(folder, onerror=fail, followlinks=True)
                for name in names
            ]
        return self._stats(found)

    def matches(self, pattern: str) -> list[Stored]:
        with _failing("read", pattern):
            return self._stats([path for path in glob.glob(pattern, recursive=True) if not Path(path).is_dir()])

    def _stats(self, paths: Sequence[str]) -> list[Stored]:
        return [stored for path in sorted(paths) if (stored := self.stat(path)) is not None]

    def read(self, path: str) -> bytes | None:
        with _failing("read", path):
            try:
                return Path(path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        return [content for path in paths if (content := self.read(path)) is not None]

    def write(self, path: str, content: bytes) -> None:
        temporary = Path(path).with_name(f".{secrets.token_hex(8)}.part")
        with _failing("written", path):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def fetch(self, path: str, folder: Path) -> Path:
        return Path(path)

    @contextmanager
    def opened(self, path: str) -> Iterator[str]:
        yield path

    def publish(self, local: Path, path: str) -> Stored:
        with _failing("written", path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with local.open("rb") as file:
                os.fsync(file.fileno())  # after a power cut, a name without its content would look complete
            local.replace(path)
        stored = self.stat(path)
        assert stored is not None
        return stored

    def remove(self, path: str) -> None:
        with _failing("removed", path):
            if Path(path).is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)


class _ObjectStore:
    """What fsspec knows by the beginning of an address. An object appears when all of it was sent."""

    def __init__(self, protocol: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped]

            self._files = fsspec.filesystem(protocol, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            advice = (
                "pip install 'bmf-trt-seg[ray]'" if protocol == "s3" else f"install what fsspec needs for {protocol}"
            )
            raise BackendUnavailable(f"'{protocol}://' addresses cannot be used: {error}; {advice}") from error
        self._protocol = protocol

    def is_folder(self, path: str) -> bool:
        with self._translated("read", path):
            return bool(self._files.isdir(path))

    def stat(self, path: str) -> Stored | None:
        with self._translated("read", path):
            try:
                facts = self._files.info(path)
            except FileNotFoundError:
                return None
            return self._stored(facts) if facts["type"] == "file" else None

    def files(self, folder: str) -> list[Stored]:
        with self._translated("read", folder):
            found = self._files.find(folder, detail=True)
        return [self._stored(found[path]) for path in sorted(found)]

    def matches(self, pattern: str) -> list[Stored]:
        with self._translated("read", pattern):
            found = self._files.glob(pattern, detail=True)
        return [self._stored(found[path]) for path in sorted(found) if found[path]["type"] == "file"]

    def _stored(self, facts: dict[str, Any]) -> Stored:
        version = facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or facts.get("LastModified") or ""
        return Stored(self._files.unstrip_protocol(facts["name"]), int(facts["size"] or 0), str(version).strip('"'))

    def read(self, path: str) -> bytes | None:
        with self._translated("read", path):
            try:
                return bytes(self._files.cat_file(path))
            except FileNotFoundError:
                return None

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        with self._translated("read", paths[0] if paths else ""):
            found = self._files.cat(list(paths), on_error="omit") if paths else {}
        return [found[path] for path in sorted(found)]

    def write(self, path: str, content: bytes) -> None:
        with self._translated("written", path):
            self._files.pipe_file(path, content)

    def fetch(self, path: str, folder: Path) -> Path:
        local = folder / path.rpartition("/")[2]
        with self._translated("read", path):
            self._files.get_file(path, str(local))
        return local

    @contextmanager
    def opened(self, path: str) -> Iterator[Any]:
        with self._translated("read", path):
            file = self._files.open(path, "rb", block_size=4 << 20, cache_type="readahead")
        with file:
            yield file

    def publish(self, local: Path, path: str) -> Stored:
        with self._translated("written", path):
            self._files.put_file(str(local), path)
        stored = self.stat(path)
        if stored is None or stored.size_bytes != local.stat().st_size:
            raise StreamError(f"'{path}' cannot be written: it is not there as it was sent")
        local.unlink()
        return stored

    def remove(self, path: str) -> None:
        with self._translated("removed", path), suppress(FileNotFoundError):
            self._files.rm(path, recursive=True)

    @contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        """What a library of an object store raises is of many kinds."""
        try:
            yield
        except StreamError:
            raise
        except Exception as error:
            raise StreamError(
                f"'{path}' cannot be {verb}: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error


@contextmanager
def _failing(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamError(f"'{path}' cannot be {verb}: {error.strerror or error}") from error
