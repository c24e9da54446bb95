"""JPEG files decoded by the GPU that the network runs on, through nvImageCodec; other files are left to the CPU."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from bmf_trt_seg.frames import FramePlanes

if TYPE_CHECKING:
    import torch

__all__ = ["GpuJpeg", "open_gpu_jpeg"]

_INSTALL = "pip install 'nvidia-nvimgcodec-cu12[nvjpeg]', or -cu13"
_END_OF_IMAGE = b"\xff\xd9"
_log = logging.getLogger(__name__)


class GpuJpeg:
    """Decodes JPEG files into the memory of one GPU."""

    def __init__(self, library: Any, device: torch.device) -> None:
        """library: the module `nvidia.nvimgcodec`. Raises what it raises where it cannot work."""
        kinds = library.BackendKind
        backends = [library.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)]
        self._device = device
        self._decoder = library.Decoder(device_id=device.index or 0, backends=backends)
        self._parameters = library.DecodeParams()  # R'G'B' of 8 bits, EXIF rotation applied

    def read(self, path: Path) -> FramePlanes | None:
        """The picture upright, R'G'B', its plane a tensor (H, W, 3) uint8 on the GPU; None if the CPU is to read it.

        That is so for other kinds of files, for colours that are converted differently (grey, CMYK) and for files that
        are cut short, which this decoder would show as far as they go.
        """
        import torch

        try:
            with Image.open(path) as image:
                if image.format != "JPEG" or image.mode != "RGB":
                    return None
            content = path.read_bytes()
            if _END_OF_IMAGE not in content[-1024:]:
                return None
            decoded = self._decoder.decode(content, params=self._parameters)
            if decoded is None:
                return None
            plane = torch.from_dlpack(decoded)
            if plane.device.type == "cuda":
                torch.cuda.synchronize(plane.device)  # it was decoded on another stream than it is used on
        except Exception as error:  # whatever it is, the CPU reads the file, or says better why it cannot
            _log.debug("'%s' is left to the CPU: %s", path, error)
            return None
        height, width = plane.shape[:2]
        return FramePlanes("rgb24", width, height, (plane,), owner=decoded)


def open_gpu_jpeg(device: torch.device | None) -> GpuJpeg | None:
    """A decoder on this GPU; None, and a line in the log that says why, if pictures are to be read by the CPU."""
    if device is None:
        _log.debug("pictures are decoded on the CPU: the network takes its batches there")
        return None
    try:
        library = importlib.import_module("nvidia.nvimgcodec")
        decoder = GpuJpeg(library, device)
    except ImportError:
        _log.debug("pictures are decoded on the CPU: nvImageCodec is not installed: %s", _INSTALL)
        return None
    except Exception as error:  # its own RuntimeErrors, of a driver or a library that it lacks
        _log.debug("pictures are decoded on the CPU: nvImageCodec cannot be used: %s", str(error).splitlines()[0])
        return None
    _log.debug("JPEG is decoded on %s by nvImageCodec %s, other pictures on the CPU", device, library.__version__)
    return decoder
