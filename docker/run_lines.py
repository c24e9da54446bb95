"""Run the steps of a Dockerfile without an engine of containers: each stage in a chroot, one RUN line after another.

    debootstrap --variant=minbase bookworm /tmp/bookworm
    sudo python docker/run_lines.py docker/cpu.Dockerfile /tmp/bookworm /tmp/stages

The first folder is what stands for the base image of the first stage; the second, new one gets a folder for each stage,
of which the last is what the image would hold. Only the instructions that our Dockerfiles use are known; what is about
running a container (USER, EXPOSE, HEALTHCHECK, ENTRYPOINT, CMD) is skipped. Files are copied as .dockerignore says.
Proxies are taken over from the environment, and REQUESTS_CA_BUNDLE, which pip reads: a file in the first folder.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
SKIPPED = {"USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# in namespaces of its own: no mount is left behind, however it ends, and none of the system's devices is in reach
APART = [
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-e", "-c"),
    """
    mount -t proc proc "$1/proc"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    mknod -m 666 "$1/dev/null" c 1 3
    mknod -m 666 "$1/dev/zero" c 1 5
    mknod -m 666 "$1/dev/random" c 1 8
    mknod -m 666 "$1/dev/urandom" c 1 9
    ln -s /proc/self/fd "$1/dev/fd"
    mkdir "$1/dev/shm"
    exec chroot "$1" /bin/sh -c "$2"
    """,
    "sh",
]
TAKEN_OVER = ("http_proxy", "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE")


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        yield word, rest.strip()


def context(folder: Path) -> Path:
    """A copy of what .dockerignore lets through: the lines with an exclamation mark."""
    lines = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(TOP / name, target)
    return folder


def inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def copy(words: list[str], source: Path, root: Path) -> None:
    *names, target = words
    for name in names:
        if name == ".":
            shutil.copytree(source, inside(root, target), symlinks=True, dirs_exist_ok=True)
        elif inside(source, name).is_dir():
            shutil.copytree(inside(source, name), inside(root, target), symlinks=True, dirs_exist_ok=True)
        else:
            place = inside(root, target)
            place = place / Path(name).name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(inside(source, name), place)


def main(dockerfile: Path, base: Path, out: Path) -> None:
    out.mkdir()
    files = context(out / "context")
    stages: dict[str, Path] = {}
    taken = {name: os.environ[name] for name in TAKEN_OVER if name in os.environ}
    settings: dict[Path, dict[str, str]] = {base: {**ENVIRONMENT, **taken}}
    root = base
    for word, rest in instructions(dockerfile):
        began = time.monotonic()
        if word == "FROM":
            before, _, name = rest.partition(" AS ")
            before_root = stages.get(before, base)
            root = out / (name or "image")
            subprocess.run(["cp", "-a", before_root, root], check=True)
            shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
            stages[name or "image"] = root
            settings[root] = dict(settings[before_root])
        elif word == "COPY":
            words = shlex.split(rest)
            if words[0].startswith("--from="):
                copy(words[1:], stages[words[0].partition("=")[2]], root)
            else:
                copy(words, files, root)
        elif word == "ENV":
            for pair in shlex.split(rest.replace("$PATH", settings[root]["PATH"])):
                variable, _, value = pair.partition("=")
                settings[root][variable] = value
        elif word == "WORKDIR":
            inside(root, rest).mkdir(parents=True, exist_ok=True)
        elif word == "RUN":
            ran = subprocess.run([*APART, root, rest], env=settings[root])
            print(f"{time.monotonic() - began:6.1f} s, exit code {ran.returncode}: RUN {rest}", flush=True)
            if ran.returncode:
                sys.exit(1)
        elif word not in SKIPPED:
            sys.exit(f"{dockerfile}: the instruction {word} is not known here")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
