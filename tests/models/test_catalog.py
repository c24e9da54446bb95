"""Fetching the networks known by name, and finding the file that a name or a path means."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.models import packages
from bmf_trt_seg.models.catalog import CATALOG, fetch, find, installed, models_folder
from bmf_trt_seg.spec import ModelSpec

FILES = ["person-landscape.json", "person-landscape.onnx", "person.json", "person.onnx"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched networks go; it does not exist yet."""
    folder = tmp_path / "cache" / "models"
    monkeypatch.setenv("BMF_TRT_SEG_MODELS", str(folder))
    return folder


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tflite_files: dict[str, bytes]) -> list[list[str]]:
    """Downloads are not made but noted here: the files asked for, by download."""
    noted: list[list[str]] = []

    def stand_in(requirement: str, sha256_of: dict[str, str]) -> dict[str, bytes]:
        assert requirement == "mediapipe==0.10.21"
        noted.append([Path(member).name for member in sha256_of])
        return {model.member: tflite_files[model.name] for model in CATALOG.values() if model.member in sha256_of}

    monkeypatch.setattr(packages, "files_from_wheel", stand_in)
    return noted


BOTH = ["selfie_segmentation.tflite", "selfie_segmentation_landscape.tflite"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------------- fetch


def test_fetch_writes_networks_and_their_descriptions(folder, downloads):
    assert fetch("person") == [folder / "person.onnx", folder / "person-landscape.onnx"]
    assert downloads == [BOTH]
    assert names(folder) == FILES
    for model in CATALOG.values():
        onnx.checker.check_model(onnx.load(folder / f"{model.name}.onnx"))
        assert ModelSpec.read(folder / f"{model.name}.json") == model.spec


@pytest.mark.usefixtures("downloads")
def test_description_says_what_the_network_is(folder):
    fetch("person-landscape")
    spec = ModelSpec.read(folder / "person-landscape.json")
    assert (spec.labels, spec.background, spec.colors) == (["background", "person"], 0, ["#000000", "#00c853"])
    assert (spec.input.name, spec.input.layout, spec.input.dtype) == ("input", "nchw", "float32")
    assert (spec.input.height, spec.input.width, spec.input.resize) == (144, 256, "stretch")
    assert (spec.input.channel_order, spec.input.mean, spec.input.std) == ("rgb", (0, 0, 0), (1, 1, 1))
    assert (spec.output.name, spec.output.activation, spec.output.threshold) == ("output", "none", 0.5)
    assert spec.license == "Apache-2.0"
    assert spec.source.endswith("selfie_segmentation_landscape.tflite of the package mediapipe==0.10.21")


def test_fetching_again_downloads_nothing(folder, downloads):
    fetch("person")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fetch("person-landscape") == [folder / "person-landscape.onnx", folder / "person.onnx"]
    assert len(downloads) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_force_downloads_again(folder, downloads):
    fetch("person")
    (folder / "person.onnx").write_bytes(b"stale")
    fetch("person", force=True)
    assert downloads == [BOTH, BOTH]
    onnx.load(folder / "person.onnx")


@pytest.mark.parametrize("lost", ["person.json", "person.onnx"])
def test_fetch_mends_what_is_missing(folder, downloads, lost):
    fetch("person")
    (folder / lost).unlink()
    fetch("person-landscape")
    assert names(folder) == FILES
    assert downloads == [BOTH, BOTH[:1]]


@pytest.mark.usefixtures("downloads")
def test_fetch_into_a_given_folder(tmp_path, folder):
    fetch("person", folder=tmp_path / "elsewhere")
    assert names(tmp_path / "elsewhere") == FILES
    assert not folder.exists()


def test_fetch_of_an_unknown_name(downloads):
    message = (
        "there is no model 'persn' to fetch; did you mean 'person'? models known by name: person, person-landscape"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        fetch("persn")
    assert downloads == []


def test_another_file_in_the_wheel_is_refused(tmp_path, folder, monkeypatch):
    """Through the real pip, from a folder with a wheel that has the right name and the wrong content."""
    with zipfile.ZipFile(tmp_path / "mediapipe-0.10.21-py3-none-any.whl", "w") as wheel:
        for model in CATALOG.values():
            wheel.writestr(model.member, b"not the network")
        wheel.writestr(
            "mediapipe-0.10.21.dist-info/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n"
        )
        wheel.writestr("mediapipe-0.10.21.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(StreamError, match=f"is not the expected file: its SHA-256 is .*{CATALOG['person'].sha256}$"):
        fetch("person")
    assert not folder.exists()


@pytest.mark.usefixtures("downloads")
def test_description_is_there_before_the_network(monkeypatch):
    seen = []
    replace = Path.replace

    def noting(self: Path, target: Path) -> Path:
        seen.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noting)
    fetch("person")
    assert seen == ["person.json", "person.onnx", "person-landscape.json", "person-landscape.onnx"]


@pytest.mark.usefixtures("downloads")
def test_interrupted_fetch_leaves_no_half_file(folder, monkeypatch):
    write_bytes = Path.write_bytes

    def interrupted(self: Path, content: bytes) -> int:
        write_bytes(self, content[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("person")
    assert names(folder) == ["person.json"]
    with pytest.raises(ConfigError, match="is not here yet"):
        find("person")


@pytest.mark.usefixtures("downloads")
def test_full_disk_is_one_line_and_keeps_the_old_file(folder, monkeypatch):
    fetch("person")
    before = (folder / "person.onnx").read_bytes()

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    message = f"model 'person' cannot be written to '{folder}': No space left on device; the environment variable "
    with pytest.raises(StreamError, match=re.escape(message + "BMF_TRT_SEG_MODELS names another folder")):
        fetch("person", force=True)
    assert names(folder) == FILES
    assert (folder / "person.onnx").read_bytes() == before


@pytest.mark.usefixtures("downloads")
def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StreamError, match=r"model 'person' cannot be written to '.*/file/models': Not a directory"):
        fetch("person", folder=tmp_path / "file" / "models")


# ----------------------------------------------------------------------------------------------------------------- find


def test_find_takes_a_path_as_it_is(tmp_path, monkeypatch):
    for ending in ("onnx", "pt", "pt2", "engine", "plan"):
        (tmp_path / f"net.{ending}").touch()
        assert find(str(tmp_path / f"net.{ending}")) == tmp_path / f"net.{ending}"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/net.onnx") == tmp_path / "net.onnx"


@pytest.mark.usefixtures("downloads")
def test_find_gives_a_fetched_network(folder, tmp_path, monkeypatch):
    fetch("person")
    (tmp_path / "person").mkdir()  # a folder of that name in the working directory is not in the way
    monkeypatch.chdir(tmp_path)
    assert find("person") == folder / "person.onnx"
    assert find("person-landscape") == folder / "person-landscape.onnx"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("person", "model 'person' is not here yet: run 'bmf-trt-seg models fetch person'"),
        (
            "person-landscap",
            "model file 'person-landscap' does not exist; did you mean 'person-landscape'? "
            "models known by name: person, person-landscape",
        ),
        (
            "models/person.onnx",
            "model file 'models/person.onnx' does not exist; did you mean 'person'? "
            "models known by name: person, person-landscape",
        ),
        ("fcn.onnx", "model file 'fcn.onnx' does not exist; models known by name: person, person-landscape"),
        ("/", "model file '/' is a folder, expected a file; models known by name: person, person-landscape"),
        ("", "model file '' is a folder, expected a file; models known by name: person, person-landscape"),
    ],
)
def test_find_says_what_to_do(model, message):
    with pytest.raises(ConfigError) as caught:
        find(model)
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------------------- lists, folders


@pytest.mark.usefixtures("downloads")
def test_installed_lists_what_is_here_and_what_is_not(folder):
    assert [(item.name, item.path, item.size_bytes) for item in installed()] == [
        ("person", None, 0),
        ("person-landscape", None, 0),
    ]
    fetch("person")
    person, landscape = installed()
    assert (person.path, person.license, person.size_hw) == (folder / "person.onnx", "Apache-2.0", (256, 256))
    assert person.size_bytes == sum((folder / name).stat().st_size for name in ("person.onnx", "person.json")) > 400_000
    assert landscape.size_hw == (144, 256)
    assert "wide" in landscape.description


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BMF_TRT_SEG_MODELS": "/srv/models", "XDG_CACHE_HOME": "/var/cache"}, "/srv/models"),
        ({"BMF_TRT_SEG_MODELS": "~/nets"}, "/home/ada/nets"),
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/bmf_trt_seg/models"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/bmf_trt_seg/models"),
        ({"XDG_CACHE_HOME": "", "BMF_TRT_SEG_MODELS": ""}, "/home/ada/.cache/bmf_trt_seg/models"),
        ({}, "/home/ada/.cache/bmf_trt_seg/models"),
    ],
)
def test_models_folder(monkeypatch, variables, expected):
    monkeypatch.setenv("HOME", "/home/ada")
    for name in ("BMF_TRT_SEG_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert models_folder() == Path(expected)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys; from bmf_trt_seg.models import catalog, packages, tflite; catalog.installed(); "
        "print(sorted({'onnx', 'tflite', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
