"""NVDEC, the video decoder of NVIDIA's GPUs, through PyNvVideoCodec: packets in, planes in device memory out.

It knows PyTorch and PyNvVideoCodec; it does not know BMF.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import torch

from bmf_trt_seg.cuda_memory import bytes_at, copy_bytes
from bmf_trt_seg.cuda_streams import give_back, take
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.hardware import pynvvideocodec
from bmf_trt_seg.sources.packets import NVDEC_CODECS, Track, TrackInfo

__all__ = ["DevicePicture", "NewPlanes", "NvDecoder", "surface_planes", "write_planes"]

NewPlanes = Callable[[int, int], tuple[Any, tuple[torch.Tensor, ...]]]
"""For a width and a height: whatever owns the memory, and its planes, (H, W) and (H / 2, W / 2, 2), uint8 or uint16."""

_CAPABILITIES = ("num_decoder_engines", "width_max", "height_max", "width_min", "height_min")
_MOST_FLUSHES = 64  # a decoder has no more pictures than this in hand at the end


@dataclass(frozen=True)
class DevicePicture:
    """A decoded picture, upright, in device memory of its own; complete for what follows on the default stream."""

    pts: int
    owner: Any
    """Whatever `NewPlanes` gave for it."""
    planes: tuple[torch.Tensor, ...]
    """Luma (H, W) and chroma (H / 2, W / 2, 2): uint8, or uint16 with the value in the upper bits (P010)."""


@dataclass(frozen=True)
class _Surface:
    """A picture in the decoder's own memory, which is its until the next call of `decode`; rows without padding."""

    address: int
    count: int
    """Bytes."""
    pts: int
    width: int
    height: int


class _Times:
    """Gives each picture that comes out the time of the packet that went in."""

    def __init__(self, info: TrackInfo) -> None:
        self._sent: set[int] = set()
        self._step = max(1, round(1 / ((info.rate or 25) * info.time_base)))
        self._last: int | None = None

    def sent(self, pts: int) -> None:
        self._sent.add(pts)

    def of(self, reported: int) -> int:
        """The time of the next picture in the order of display; what the decoder says it is, if that was sent."""
        if reported in self._sent:
            pts = reported
        elif self._sent:
            pts = min(self._sent)
        else:
            pts = 0 if self._last is None else self._last + self._step
        self._sent = {other for other in self._sent if other > pts}  # what was before it will not come any more
        self._last = pts
        return pts


class NvDecoder:
    """A decoder with a CUDA stream of its own, whose pictures are copied into memory of the caller's."""

    def __init__(self, info: TrackInfo, device: int, new_planes: NewPlanes) -> None:
        """Pictures go into the memory that `new_planes` gives, which may still be in use on the default stream.

        Raises StreamError with a reason of one line if the GPU cannot decode this.
        """
        self._new_planes = new_planes
        self._device = torch.device("cuda", device)
        self._turns, self._is_deep = info.quarter_turns, info.bit_depth > 8
        # the copies are short, and NVDEC waits for them: they must not queue behind the kernels of networks
        self._stream = take(self._device, is_urgent=True)
        self._default = torch.cuda.default_stream(self._device)
        self._before = torch.cuda.Event()
        self._done = torch.cuda.Event()
        self._views: dict[tuple[int, int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._nvdec: _PyNvDecoder | None = None
        try:
            with torch.cuda.device(self._device):
                self._nvdec = _PyNvDecoder(info, device, self._stream.cuda_stream)
        finally:
            if self._nvdec is None:
                give_back(self._stream)

    def close(self) -> None:
        """Give up decoder and stream, in some 0.2 s, in which no other Python runs."""
        if self._nvdec is not None:
            self._nvdec = None
            give_back(self._stream)

    def pictures(self, track: Track) -> Iterator[DevicePicture]:
        """The pictures of the track between its start and its end, in the order of display. Raises StreamError."""
        shown = _Times(track.info)
        for packet in track.packets():
            if packet.pts is not None:
                shown.sent(packet.pts)
            for picture in self._copies(packet, shown):
                if track.is_over(picture.pts):
                    return
                if track.shows(picture.pts):
                    yield picture
        for _ in range(_MOST_FLUSHES):
            pictures = self._copies(None, shown)
            for picture in pictures:
                if track.shows(picture.pts):
                    yield picture
            if not pictures:
                return

    def _copies(self, packet: av.Packet[Any] | None, shown: _Times) -> list[DevicePicture]:
        """What a packet completes, none of it in the decoder's memory any more; None: what it still has."""
        assert self._nvdec is not None
        surfaces = self._nvdec.decode(packet)
        if not surfaces:
            return []
        pictures = [self._empty(surface, shown.of(surface.pts)) for surface in surfaces]
        with torch.cuda.device(self._device):
            self._before.record(self._default)  # where others may still read or write the memory
            self._stream.wait_event(self._before)
            for surface, picture in zip(surfaces, pictures, strict=True):
                self._copy(surface, picture.planes)
            self._done.record(self._stream)
            self._default.wait_event(self._done)  # nobody waits here: NVDEC's next picture has to be asked for
        return pictures

    def _copy(self, surface: _Surface, planes: Sequence[torch.Tensor]) -> None:
        if self._turns or not all(plane.is_contiguous() for plane in planes):
            with torch.cuda.stream(self._stream):
                write_planes(self._planes_of(surface), planes, self._turns)
            return
        address = surface.address
        for plane in planes:
            copy_bytes(plane.data_ptr(), address, plane.nbytes, self._stream.cuda_stream)
            address += plane.nbytes

    def _empty(self, surface: _Surface, pts: int) -> DevicePicture:
        size = surface.width, surface.height
        owner, planes = self._new_planes(*(size[::-1] if self._turns % 2 else size))
        return DevicePicture(pts, owner, planes)

    def _planes_of(self, surface: _Surface) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder has a few surfaces, whose tensors are made once."""
        key = surface.address, surface.width, surface.height
        if key not in self._views:
            memory = bytes_at(surface.address, surface.count, self._device)
            self._views[key] = surface_planes(memory, surface.width, surface.height, self._is_deep)
        return self._views[key]


def surface_planes(
    surface: torch.Tensor, width: int, height: int, is_deep: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma (H, W) and chroma (H / 2, W / 2, 2) of an NV12 surface, (bytes,) uint8; of a P010 one as int16."""
    samples = surface.view(torch.int16) if is_deep else surface  # of unsigned ones PyTorch knows little but the name
    luma = samples[: width * height].view(height, width)
    return luma, samples[width * height :].view(height // 2, width // 2, 2)


def write_planes(originals: Sequence[torch.Tensor], planes: Sequence[torch.Tensor], turns: int = 0) -> None:
    """Fill `planes`, uint8 or uint16, with those of a surface, turned counterclockwise by 90 degrees so many times."""
    for plane, original in zip(planes, originals, strict=True):
        target = plane if plane.dtype == torch.uint8 else plane.view(torch.int16)
        target.copy_(torch.rot90(original, turns) if turns else original)


class _PyNvDecoder:
    """PyNvVideoCodec's low-level decoder. Every call to PyNvVideoCodec that decodes is in this class.

    What it raises becomes a StreamError of one line.
    """

    def __init__(self, info: TrackInfo, device: int, stream: int) -> None:
        self._info = info
        try:
            self._library = library = pynvvideocodec()
            codec = getattr(library.cudaVideoCodec, NVDEC_CODECS[info.codec])
            self._check_capabilities(codec, device)
            # both or none: a stream of ours belongs to the context that it was made in, PyTorch's
            self._decoder = library.CreateDecoder(
                gpuid=device,
                codec=codec,
                cudacontext=_primary_context(device),
                cudastream=stream,
                usedevicememory=True,
            )
        except StreamError:
            raise
        except Exception as error:
            raise _said(error) from error

    def decode(self, packet: av.Packet[Any] | None) -> list[_Surface]:
        """The pictures that are ready once a packet is in; None is the end, after which come those it held back."""
        data = self._library.PacketData()
        data.bsl_data = packet.buffer_ptr if packet is not None else 0
        data.bsl = packet.buffer_size if packet is not None else 0
        data.pts = packet.pts or 0 if packet is not None else 0
        try:
            return [self._surface(frame) for frame in self._decoder.Decode(data)]
        except StreamError:
            raise
        except Exception as error:
            raise _said(error) from error

    def _surface(self, frame: Any) -> _Surface:
        count = int(frame.framesize())
        sizes = [(self._info.width, self._info.height)]
        if hasattr(self._decoder, "GetWidth"):
            sizes.insert(0, (int(self._decoder.GetWidth()), int(self._decoder.GetHeight())))
        for width, height in sizes:
            if count == width * height * 3 // 2 * (2 if self._info.bit_depth > 8 else 1):
                pts = frame.getPTS() if hasattr(frame, "getPTS") else frame.timestamp
                return _Surface(int(frame.GetPtrToPlane(0)), count, int(pts), width, height)
        raise StreamError(f"NVDEC gave a picture of {count} bytes, which is none of {sizes[0][0]}x{sizes[0][1]}")

    def _check_capabilities(self, codec: Any, device: int) -> None:
        info = self._info
        chroma = getattr(getattr(self._library, "cudaVideoChromaFormat", None), "420", None)
        if chroma is None:  # then the first packet tells
            return
        found = _capabilities(self._library, device, codec, chroma, info.bit_depth)
        kind = f"{info.codec} of {info.bit_depth} bits"
        if not found.get("num_decoder_engines", 1) or not found.get("width_max", 1):
            raise StreamError(f"this GPU does not decode {kind}")
        largest = found.get("width_max", info.width), found.get("height_max", info.height)
        smallest = found.get("width_min", 0), found.get("height_min", 0)
        if info.width > largest[0] or info.height > largest[1]:
            raise StreamError(
                f"this GPU decodes {kind} up to {largest[0]}x{largest[1]}, not {info.width}x{info.height}"
            )
        if info.width < smallest[0] or info.height < smallest[1]:
            raise StreamError(
                f"this GPU decodes {kind} from {smallest[0]}x{smallest[1]} on, not {info.width}x{info.height}"
            )


@functools.lru_cache(maxsize=64)
def _capabilities(library: Any, device: int, codec: Any, chroma: Any, bit_depth: int) -> dict[str, int]:
    """What a GPU's NVDEC takes; asking costs a quarter of a second, in which no other Python runs."""
    caps = library.GetDecoderCaps(gpuid=device, codec=codec, chromaformat=chroma, bitdepth=bit_depth)
    return {name: int(caps[name]) for name in _CAPABILITIES if name in caps}


def _said(error: Exception) -> StreamError:
    """What PyNvVideoCodec raised, in one line."""
    return StreamError(f"NVDEC: {' '.join(str(error).split())[:200] or type(error).__name__}")


def _primary_context(device: int) -> int:
    """The address of the CUDA context that PyTorch uses on a GPU, as PyNvVideoCodec takes it.

    It is held for the rest of the process, as PyTorch itself does.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    number, context = ctypes.c_int(), ctypes.c_void_p()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(number), device),
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number),
    ):
        if status:
            raise StreamError(f"CUDA gives no context on GPU {device} (error {status})")
    return int(context.value or 0)
