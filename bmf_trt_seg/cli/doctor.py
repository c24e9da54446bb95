"""`bmf-trt-seg doctor`: what works here, and what to do about the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bmf_trt_seg.backends import BACKENDS
from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.models import catalog

__all__ = ["command"]

_FFMPEG4 = {
    "libavcodec": 58, "libavformat": 58, "libavfilter": 7, "libavdevice": 58, "libavutil": 56, "libswscale": 5,
    "libswresample": 3,
}  # fmt: skip
_CODECS = {
    "libx264": "H.264 on the CPU", "libx265": "HEVC on the CPU", "h264_nvenc": "H.264 on the GPU",
    "hevc_nvenc": "HEVC on the GPU", "h264_cuvid": "decoding H.264 on the GPU",
}  # fmt: skip


@dataclass(frozen=True)
class _Finding:
    """One thing that was looked at. Only an essential one that is missing makes the doctor's exit code 1."""

    subject: str
    works: bool
    detail: str
    essential: bool = False


@click.command(name="doctor")
def command() -> int:
    """Say what is installed, what works here, and what to do about the rest."""
    findings = list(_findings())
    for finding in findings:
        mark = "ok" if finding.works else "MISSING" if finding.essential else "no"
        click.echo(f"{finding.subject:24} {mark:8} {finding.detail}")
    broken = [finding for finding in findings if finding.essential and not finding.works]
    if broken:
        click.echo(f"\nVideos cannot be segmented here: {', '.join(finding.subject for finding in broken)}.")
    else:
        click.echo("\nVideos can be segmented here.")
    return 1 if broken else 0


def _findings() -> Iterator[_Finding]:
    yield _Finding("Python", True, f"{platform.python_version()}, {os.cpu_count()} cores")
    absent = [f"{name}.so.{number}" for name, number in _FFMPEG4.items() if not _loads(f"{name}.so.{number}")]
    advice = f"{', '.join(absent)} not found: sudo {_installer()}" if absent else "libraries found"
    yield _Finding("FFmpeg 4", not absent, advice, essential=True)
    yield _bmf(can_load=not absent)
    yield from (_backend(name) for name in BACKENDS)
    yield from ([_codec(name, use) for name, use in _CODECS.items()] if not absent else [])
    for model in catalog.installed():
        advice = str(model.path) if model.path else f"bmf-trt-seg models fetch {model.name}"
        yield _Finding(f"model {model.name}", model.path is not None, advice)


def _installer() -> str:
    """The script that installs FFmpeg 4: a file that came with an installed copy, or that of a checkout."""
    try:
        files = importlib.metadata.files("bmf-trt-seg") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    here = next((file for file in files if file.match("share/bmf-trt-seg/install-ffmpeg4")), None)
    return "scripts/install-ffmpeg4" if here is None else str(Path(str(here.locate())).resolve())


def _bmf(can_load: bool) -> _Finding:
    if importlib.util.find_spec("bmf") is None:
        return _Finding("BMF", False, "pip install BabitMF==0.2.0", essential=True)
    if not can_load:
        return _Finding("BMF", False, "installed, but cannot be loaded without FFmpeg 4", essential=True)
    try:
        from bmf.lib import _bmf
    except ImportError as error:
        return _Finding("BMF", False, f"installed, but cannot be loaded: {error}", essential=True)
    assert _bmf
    names = [name for name in ("BabitMF", "BabitMF_GPU") if _version(name)]
    return _Finding("BMF", True, ", ".join(f"{name} {_version(name)}" for name in names), essential=True)


def _backend(name: str) -> _Finding:
    entry = BACKENDS[name]
    runs = ", ".join(entry.suffixes)
    if entry.library is None:
        return _Finding(f"backend {name}", False, f"runs {runs}: {entry.install}")
    if name == "tensorrt":
        return _tensorrt(runs)
    return _Finding(f"backend {name}", True, f"{_version(entry.library) or 'installed'}, runs {runs}")


def _tensorrt(runs: str) -> _Finding:
    """TensorRT may be there and find no GPU, or not find its own libraries."""
    from bmf_trt_seg.engine.library import find_gpu, has_cuda, load_library

    try:
        library, gpu = load_library(), find_gpu()
    except BackendUnavailable as error:
        return _Finding("backend tensorrt", False, str(error))
    if gpu is None:
        reason = (
            "PyTorch finds no GPU here" if has_cuda() else "this PyTorch is built without CUDA; install one with it"
        )
        return _Finding("backend tensorrt", False, f"{library}, runs {runs}: {reason}")
    return _Finding("backend tensorrt", True, f"{library} on {gpu}, runs {runs}")


def _codec(name: str, use: str) -> _Finding:
    library = ctypes.CDLL("libavcodec.so.58")
    find = library.avcodec_find_decoder_by_name if name.endswith("cuvid") else library.avcodec_find_encoder_by_name
    find.restype = ctypes.c_void_p
    there = bool(find(name.encode()))
    return _Finding(f"codec {name}", there, use if there else f"{use}: not in this build of FFmpeg")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
