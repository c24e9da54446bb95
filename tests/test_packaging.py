"""What `python -m build` makes: a source distribution and a wheel, and the wheel in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SHARED = {
    "graphs": "graphs",
    "systemd": "packaging/systemd",
    "prometheus": "packaging/prometheus",
    "grafana": "packaging/grafana",
}
"""Folders of share/bmf-trt-seg, and where their files are in a checkout."""
ONLY_IN_A_CHECKOUT = {".ci/run", ".gitignore"}
MADE = {"PKG-INFO", "setup.cfg"}


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path
    files: frozenset[str]
    """Of the checkout."""

    def in_checkout(self, *folders: str) -> set[str]:
        return {name for name in self.files if name.startswith(tuple(f"{folder}/" for folder in folders))}

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Of a copy of the checkout, with nothing else that lies about in it."""
    if shutil.which("git") is None or not (TOP / ".git").exists():
        pytest.skip("only a checkout knows which files are in it")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    files = frozenset(name for name in listed if name and (TOP / name).is_file())
    folder = tmp_path_factory.mktemp("packaging")
    for name in files:
        copy = folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TOP / name, copy)
    run([sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source"], folder)
    (wheel,), (sdist,) = ((folder / "dist").glob(pattern) for pattern in ("*.whl", "*.tar.gz"))
    return Built(wheel, sdist, files)


def run(command: list[str | Path], folder: Path) -> str:
    """What it prints; without what this environment adds to Python's."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_both_pass_the_check_of_the_index(built: Built) -> None:
    run([sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist], built.wheel.parent)


def test_wheel_has_the_package_and_what_operators_run_it_with(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if name.startswith("bmf_trt_seg/")}
    assert package == built.in_checkout("bmf_trt_seg")
    assert {Path(name).suffix for name in package} == {".py", ".cu", ".css", ".html", ".js", ".typed"}
    data = "share/bmf-trt-seg/"
    shared = {name.partition(data)[2] for name in names if data in name}
    assert shared == {"install-ffmpeg4"} | {
        f"{folder}/{Path(name).name}" for folder, source in SHARED.items() for name in built.in_checkout(source)
    }
    rest = {name for name in names - package if data not in name}
    assert all(".dist-info/" in name for name in rest)
    assert any(name.endswith("/licenses/LICENSE") for name in rest)


def test_sdist_has_the_checkout(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    found = {name for name in names if name not in MADE and ".egg-info/" not in name}
    assert found == built.files - ONLY_IN_A_CHECKOUT


def test_metadata(built: Built) -> None:
    metadata = built.metadata()
    version = re.search(r'__version__ = "(.+)"', (TOP / "bmf_trt_seg" / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    assert (metadata["Name"], metadata["Version"]) == ("bmf-trt-seg", version[1])
    assert metadata["License-Expression"] == "Apache-2.0"
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(metadata.get_all("Classifier", [])), re.MULTILINE)
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.13"}
    assert pythons == ["3.10", "3.11", "3.12"]
    extras = metadata.get_all("Provides-Extra", [])
    assert {"live", "nvdec", "tensorrt"} <= set(extras)


def test_description_links_to_no_file(built: Built) -> None:
    description = built.metadata().get_payload()
    assert isinstance(description, str)
    assert len(description) > 5000
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


# --- in an environment of its own -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "install", built.wheel], folder)
    run([*pip, "check"], folder)
    return folder / "venv"


IMPORTS = """
import importlib, pkgutil
import bmf_trt_seg
print(bmf_trt_seg.__file__)
for module in pkgutil.walk_packages(bmf_trt_seg.__path__, "bmf_trt_seg."):
    try:
        importlib.import_module(module.name)
        print(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""


def test_modules_can_be_imported(bare: Path, tmp_path: Path) -> None:
    """Those that are made of PyTorch want it, which the others import only where they use it."""
    where, *lines = run([bare / "bin" / "python", "-c", IMPORTS], tmp_path).splitlines()
    assert where.startswith(str(bare))
    found = dict([*line.split(), ""][:2] for line in lines)
    assert set(found.values()) <= {"", "torch"}, found
    for name in ("cli.main", "module", "sources", "live_sink", "sinks"):
        assert found[f"bmf_trt_seg.{name}"] == ""


def test_program_runs(bare: Path, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    program = bare / "bin" / "bmf-trt-seg"
    assert "segment" in run([program, "--help"], tmp_path)
    assert "person" in run([program, "models", "list"], tmp_path)
    out = tmp_path / "out.mp4"
    run([program, "segment", plain_clip, "-o", out, "-m", bright], tmp_path)
    assert out.stat().st_size > 0


def test_doctor_names_a_script_that_is_there(bare: Path, tmp_path: Path) -> None:
    code = "from bmf_trt_seg.cli.doctor import _installer; print(_installer())"
    script = Path(run([bare / "bin" / "python", "-c", code], tmp_path).strip())
    assert script == bare.resolve() / "share" / "bmf-trt-seg" / "install-ffmpeg4"
    run([script, "--check"], tmp_path)


def test_templates_are_beside_it(bare: Path, tmp_path: Path, bright: Path) -> None:
    shared = bare / "share" / "bmf-trt-seg"
    assert {path.name for path in shared.iterdir()} == {"install-ffmpeg4", *SHARED}
    settings = ["--set", f"INPUT={tmp_path / 'in.mp4'}", "--set", "OUTPUT=out.mp4", "--set", f"MODEL={bright}"]
    template = shared / "graphs" / "transcode_overlay.json"
    said = run([bare / "bin" / "bmf-trt-seg", "graph", "check", template, *settings], tmp_path)
    assert "nothing wrong" in said
