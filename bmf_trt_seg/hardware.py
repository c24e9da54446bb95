"""Which of a GPU's video engines can be used here: NVDEC through PyNvVideoCodec, NVENC through BMF's FFmpeg."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
from typing import Any

__all__ = ["NVENC", "device_index", "nvdec_missing", "nvenc_missing", "pynvvideocodec"]

NVENC = {"h264_nvenc": "h264", "hevc_nvenc": "hevc"}
"""FFmpeg's encoders on NVENC, and the codecs they write."""


def device_index(device: str) -> int:
    """The number of the GPU that 'cuda:N' names; 0 for any other device."""
    return int(device[5:]) if device.startswith("cuda:") else 0


def nvdec_missing(device: str = "cuda:0") -> str:
    """Why nothing can be decoded on this GPU into frames of BMF's; '' if it can, as far as one can tell beforehand."""
    missing = _gpu_missing(device)
    if missing:
        return missing
    import bmf.hmp as hmp

    if hmp.device_count(hmp.kCUDA) <= device_index(device):
        return "this BMF is built without CUDA; install BabitMF_GPU in the place of BabitMF"
    try:
        pynvvideocodec()
    except ImportError as error:
        return str(error)
    return ""


def nvenc_missing(codec: str, device: str = "cuda:0") -> str:
    """Why FFmpeg's encoder `codec`, a key of NVENC, cannot be used; '' if it can, as far as one can tell beforehand."""
    if not _has_encoder(codec):
        return f"the FFmpeg that BMF uses (libavcodec.so.58) is built without {codec}"
    missing = _gpu_missing(device)
    if missing:
        return missing
    try:
        caps = pynvvideocodec().GetEncoderCaps(gpuid=device_index(device), codec=NVENC[codec])
        engines = int(caps["num_encoder_engines"]) if "num_encoder_engines" in caps else 1
    except ImportError:  # nobody to ask: FFmpeg will say
        return ""
    except Exception as error:  # PyNvVideoCodec raises types of its own, of C++
        return f"this GPU has no NVENC for {NVENC[codec]} ({_first_line(error)})"
    return "" if engines else "this GPU has no NVENC"


@functools.cache
def pynvvideocodec() -> Any:
    """NVIDIA's PyNvVideoCodec; ImportError with one line if it is not installed or finds no driver."""
    if importlib.util.find_spec("PyNvVideoCodec") is None:
        raise ImportError("PyNvVideoCodec is not installed: pip install PyNvVideoCodec")
    log = logging.getLogger("PyNvVideoCodec")  # says in several lines what it then raises
    was_disabled, log.disabled = log.disabled, True
    try:
        return importlib.import_module("PyNvVideoCodec")
    except Exception as error:  # a RuntimeError without the driver's libraries
        raise ImportError(f"PyNvVideoCodec cannot be used: {_first_line(error)}") from None
    finally:
        log.disabled = was_disabled


def _gpu_missing(device: str) -> str:
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install torch"
    import torch

    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU here"
    if torch.cuda.device_count() <= device_index(device):
        return f"there is no '{device}' here, but {torch.cuda.device_count()} GPU(s)"
    return ""


@functools.cache
def _has_encoder(name: str) -> bool:
    try:
        library = ctypes.CDLL("libavcodec.so.58")  # the one that BMF is linked with
    except OSError:
        return False
    library.avcodec_find_encoder_by_name.restype = ctypes.c_void_p
    return bool(library.avcodec_find_encoder_by_name(name.encode()))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
