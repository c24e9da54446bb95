"""The networks known by name: where they come from, fetching them, and finding the file that a name or a path means."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.models import packages
from bmf_trt_seg.outputs import write_whole
from bmf_trt_seg.spec import ModelSpec, spec_path

__all__ = ["CATALOG", "CatalogModel", "Installed", "fetch", "find", "installed", "models_folder"]


@dataclasses.dataclass(frozen=True)
class CatalogModel:
    """A network that can be fetched: a TFLite file in a wheel, and what has to be known to use it."""

    name: str
    description: str
    requirement: str
    """The package that carries the file, pinned, as pip takes it."""
    member: str
    """The file's path in the wheel."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    license: str
    """Licence of the network, as an SPDX identifier."""
    size_hw: tuple[int, int]
    """Height and width of the network's input, in pixels."""
    labels: tuple[str, ...]
    palette: tuple[str, ...]

    @property
    def spec(self) -> ModelSpec:
        """The description that is written beside the ONNX file."""
        height, width = self.size_hw
        values = {
            "labels": list(self.labels),
            "palette": list(self.palette),
            "input": {"height": height, "width": width},
            "output": {"activation": "none", "threshold": 0.5},
            "source": f"{self.member} of the package {self.requirement}",
            "license": self.license,
        }
        return ModelSpec.model_validate(values)


def _selfie_model(name: str, description: str, file: str, sha256: str, size_hw: tuple[int, int]) -> CatalogModel:
    return CatalogModel(
        name=name,
        description=description,
        requirement="mediapipe==0.10.21",
        member=f"mediapipe/modules/selfie_segmentation/{file}",
        sha256=sha256,
        license="Apache-2.0",
        size_hw=size_hw,
        labels=("background", "person"),
        palette=("#000000", "#00c853"),
    )


CATALOG: dict[str, CatalogModel] = {
    model.name: model
    for model in (
        _selfie_model(
            "person",
            "people near the camera, for pictures of any shape",
            "selfie_segmentation.tflite",
            "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            (256, 256),
        ),
        _selfie_model(
            "person-landscape",
            "people near the camera, for wide pictures; about twice as fast",
            "selfie_segmentation_landscape.tflite",
            "a77d03f4659b9f6b6c1f5106947bf40e99d7655094b6527f214ea7d451106edd",
            (144, 256),
        ),
    )
}
"""Every network that is known by name."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """A line of the list of networks."""

    name: str
    description: str
    license: str
    size_hw: tuple[int, int]
    path: Path | None
    """The ONNX file; None if it is not here."""
    size_bytes: int
    """Bytes on disk, the description included; 0 if it is not here."""


def models_folder() -> Path:
    """Where fetched networks lie: $BMF_TRT_SEG_MODELS, else bmf_trt_seg/models in $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("BMF_TRT_SEG_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG specification says that a relative path there is to be ignored
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError as error:
            raise ConfigError("there is no home folder here: set BMF_TRT_SEG_MODELS to a folder for models") from error
    return cache / "bmf_trt_seg" / "models"


def fetch(name: str, folder: Path | None = None, force: bool = False) -> list[Path]:
    """Download a network of the catalog, translate it to ONNX, and write it with its description.

    The variants of a network that come in the same package are fetched with it, in one download. What is there already
    is left alone, unless `force`. `folder` is `models_folder()` if not given; it is made if it does not exist.

    Returns the ONNX files of all variants, the one asked for first. A file appears under its name only when it is
    whole, and the description (.json) before the network (.onnx).

    Raises ConfigError for a name that is not in the catalog, StreamError if the download or writing fails, and
    BackendUnavailable without the packages onnx and tflite.
    """
    if name not in CATALOG:
        raise ConfigError(f"there is no model '{name}' to fetch; {_known(name)}")
    folder = folder or models_folder()
    asked = CATALOG[name]
    variants = [asked] + [m for m in CATALOG.values() if m.requirement == asked.requirement and m is not asked]
    wanted = [model for model in variants if force or not _is_here(model, folder)]
    if wanted:
        from bmf_trt_seg.models.tflite import onnx_from_tflite

        files = packages.files_from_wheel(asked.requirement, {model.member: model.sha256 for model in wanted})
        for model in wanted:
            _write(model, onnx_from_tflite(files[model.member], model.name).SerializeToString(), folder)
    return [_path(model, folder) for model in variants]


def find(model: str) -> Path:
    """The file that an option `model` means: a path to a network, or a name of the catalog that was fetched.

    Raises ConfigError, with what to do, if there is no such file.
    """
    path = Path(os.path.expanduser(model))  # noqa: PTH111 (a '~name' of nobody stays as it is)
    if path.is_file():
        return path
    if model in CATALOG:
        folder = models_folder()
        if not _is_here(CATALOG[model], folder):
            raise ConfigError(f"model '{model}' is not here yet: run 'bmf-trt-seg models fetch {model}'")
        return _path(CATALOG[model], folder)
    problem = "is a folder, expected a file" if path.is_dir() else "does not exist"
    raise ConfigError(f"model file '{model}' {problem}; {_known(model)}")


def installed(folder: Path | None = None) -> list[Installed]:
    """Every network of the catalog, and whether it is in `folder` (`models_folder()` if not given)."""
    folder = folder or models_folder()
    return [_installed(model, folder) for model in CATALOG.values()]


def _installed(model: CatalogModel, folder: Path) -> Installed:
    here = _is_here(model, folder)
    path = _path(model, folder)
    return Installed(
        name=model.name,
        description=model.description,
        license=model.license,
        size_hw=model.size_hw,
        path=path if here else None,
        size_bytes=path.stat().st_size + spec_path(path).stat().st_size if here else 0,
    )


def _path(model: CatalogModel, folder: Path) -> Path:
    return folder / f"{model.name}.onnx"


def _is_here(model: CatalogModel, folder: Path) -> bool:
    path = _path(model, folder)
    return path.is_file() and spec_path(path).is_file()


def _write(model: CatalogModel, network: bytes, folder: Path) -> None:
    """Put a network and its description into the folder."""
    path = _path(model, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(spec_path(path), model.spec.write)
        write_whole(path, lambda temporary: temporary.write_bytes(network))
    except OSError as error:
        raise StreamError(
            f"model '{model.name}' cannot be written to '{folder}': {error.strerror}; "
            "the environment variable BMF_TRT_SEG_MODELS names another folder"
        ) from error


def _known(name: str) -> str:
    """The end of a message about a name that is not known."""
    close = difflib.get_close_matches(Path(name).stem, CATALOG, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return hint + "models known by name: " + ", ".join(CATALOG)
