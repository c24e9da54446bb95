"""NVDEC, the video decoder of NVIDIA's GPUs, through PyNvVideoCodec: packets in, planes in device memory out.

It knows PyTorch and PyNvVideoCodec; it does not know BMF.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import torch

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.hardware import pynvvideocodec
from bmf_trt_seg.sources.packets import NVDEC_CODECS, Track, TrackInfo

__all__ = ["DevicePicture", "NewPlanes", "device_pictures", "write_planes"]

NewPlanes = Callable[[int, int], tuple[Any, tuple[torch.Tensor, ...]]]
"""For a width and a height: whatever owns the memory, and its planes, (H, W) and (H / 2, W / 2, 2), uint8 or uint16."""

_CAPABILITIES = ("num_decoder_engines", "width_max", "height_max", "width_min", "height_min")
_MOST_FLUSHES = 64  # a decoder has no more pictures than this in hand at the end


@dataclass(frozen=True)
class DevicePicture:
    """A decoded picture, upright, in device memory of its own; complete when it is given out."""

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


def device_pictures(track: Track, device: int, new_planes: NewPlanes) -> Iterator[DevicePicture]:
    """The pictures of a track between its start and its end, in the order of display, decoded by NVDEC.

    They are written into the memory that `new_planes` gives, which may still be in use on the current stream. Raises
    StreamError with a reason of one line if the GPU cannot decode this, before the first picture or at any later one.
    """
    decoder = _Decoder(track.info, device, new_planes)
    shown = _Times(track.info)
    for packet in track.packets():
        if packet.pts is not None:
            shown.sent(packet.pts)
        for picture in decoder.copies(packet, shown):
            if track.is_over(picture.pts):
                return
            if track.shows(picture.pts):
                yield picture
    for _ in range(_MOST_FLUSHES):
        pictures = decoder.copies(None, shown)
        for picture in pictures:
            if track.shows(picture.pts):
                yield picture
        if not pictures:
            return


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


class _Decoder:
    """A decoder with a CUDA stream of its own, whose pictures are copied into memory of PyTorch's."""

    def __init__(self, info: TrackInfo, device: int, new_planes: NewPlanes) -> None:
        self._new_planes = new_planes
        self._device = torch.device("cuda", device)
        self._turns = info.quarter_turns
        with torch.cuda.device(self._device):
            self._stream = torch.cuda.Stream()
            self._nvdec = _PyNvDecoder(info, device, self._stream.cuda_stream)

    def copies(self, packet: av.Packet[Any] | None, shown: _Times) -> list[DevicePicture]:
        """What a packet completes, none of it in the decoder's memory any more; None: what it still has."""
        with torch.cuda.device(self._device):
            pictures = [self._copied(surface, shown.of(surface.pts)) for surface in self._nvdec.decode(packet)]
            if pictures:
                self._stream.synchronize()
        return pictures

    def _copied(self, surface: _Surface, pts: int) -> DevicePicture:
        memory = torch.as_tensor(_Memory(surface.address, surface.count), device=self._device)
        size = surface.width, surface.height
        owner, planes = self._new_planes(*(size[::-1] if self._turns % 2 else size))
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            write_planes(memory, *size, planes, self._turns)
        return DevicePicture(pts, owner, planes)


def write_planes(
    surface: torch.Tensor, width: int, height: int, planes: Sequence[torch.Tensor], turns: int = 0
) -> None:
    """Write the planes of an NV12 surface, (bytes,) uint8, or of a P010 one into `planes`, uint8 or uint16.

    They are turned counterclockwise by 90 degrees so many times.
    """
    is_deep = planes[0].dtype != torch.uint8
    samples = surface.view(torch.int16) if is_deep else surface  # of unsigned ones PyTorch knows little but the name
    luma = samples[: width * height].view(height, width)
    chroma = samples[width * height :].view(height // 2, width // 2, 2)
    for plane, original in zip(planes, (luma, chroma), strict=True):
        target = plane.view(torch.int16) if is_deep else plane
        target.copy_(torch.rot90(original, turns) if turns else original)


class _Memory:
    """Device memory that somebody else owns, as CUDA's array interface shows it."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "strides": None, "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


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
        caps = self._library.GetDecoderCaps(gpuid=device, codec=codec, chromaformat=chroma, bitdepth=info.bit_depth)
        found = {name: int(caps[name]) for name in _CAPABILITIES if name in caps}
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
