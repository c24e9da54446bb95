"""A PyNvVideoCodec that decodes on the CPU, by PyAV: what tests of NVDEC have where there is no GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import av
import bmf.hmp as hmp
import pytest
import torch

from bmf_trt_seg import transcode
from bmf_trt_seg.bmf_tensors import device_planes
from bmf_trt_seg.sources import nvdec, nvdecoder


class FakeDecoder:
    """What PyNvVideoCodec's decoder does, by PyAV in host memory; like it, it reuses its memory at the next call."""

    def __init__(self, codec: str, two_bytes: bool) -> None:
        self._codec = av.CodecContext.create({"av1": "libdav1d"}.get(codec, codec), "r")
        self._format = "p010le" if two_bytes else "nv12"
        self.size = 0, 0
        self.memory: list[Any] = []
        self.calls = 0

    def Decode(self, packet: Any) -> list[Any]:  # noqa: N802
        self.calls += 1
        for old in self.memory:
            ctypes.memset(old, 0xAA, len(old))
        given = av.Packet(ctypes.string_at(packet.bsl_data, packet.bsl)) if packet.bsl else None
        if given is not None:
            given.pts = packet.pts
        elif self._codec is None:
            return []
        frames = self._codec.decode(given)
        if given is None:
            self._codec = None
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame: Any) -> Any:
        self.size = frame.width, frame.height
        planes = frame.reformat(format=self._format).planes
        row = frame.width * (2 if self._format == "p010le" else 1)
        content = b"".join(
            bytes(memoryview(plane))[start : start + row]
            for plane in planes
            for start in range(0, plane.height * plane.line_size, plane.line_size)
        )
        memory = (ctypes.c_ubyte * len(content)).from_buffer_copy(content)
        self.memory.append(memory)
        pts = frame.pts
        return SimpleNamespace(
            framesize=lambda: len(content), GetPtrToPlane=lambda _: ctypes.addressof(memory), getPTS=lambda: pts
        )

    def GetWidth(self) -> int:  # noqa: N802
        return self.size[0]

    def GetHeight(self) -> int:  # noqa: N802
        return self.size[1]


class FakeLibrary:
    """PyNvVideoCodec, as much of it as is used."""

    def __init__(self, codec: str, two_bytes: bool = False, **capabilities: int) -> None:
        self.cudaVideoCodec = SimpleNamespace(H264="h264", HEVC="hevc", AV1="av1", VP9="vp9")
        self.cudaVideoChromaFormat = SimpleNamespace(**{"420": 1})
        self.PacketData = SimpleNamespace
        self.made: dict[str, Any] = {}
        self.decoder = FakeDecoder(codec, two_bytes)
        self._capabilities = {"num_decoder_engines": 1, "width_max": 4096, "height_max": 4096, **capabilities}

    def GetDecoderCaps(self, *, gpuid: int, codec: str, chromaformat: int, bitdepth: int) -> dict[str, int]:  # noqa: N802
        return self._capabilities

    def CreateDecoder(self, **arguments: Any) -> FakeDecoder:  # noqa: N802
        self.made.update(arguments)
        return self.decoder


class HostDecoder(nvdecoder.NvDecoder):
    """The decoder of `nvdecoder` with copies in host memory."""

    def __init__(self, info: Any, device: int, new_planes: nvdecoder.NewPlanes) -> None:
        self._nvdec = nvdecoder._PyNvDecoder(info, device, 77)
        self._new_planes, self._turns = new_planes, info.quarter_turns

    closed = 0
    """How many were."""

    def close(self) -> None:
        self._nvdec = None
        HostDecoder.closed += 1

    def _copies(self, packet: Any, shown: Any) -> list[Any]:
        assert self._nvdec is not None
        return [self._host(surface, shown.of(surface.pts)) for surface in self._nvdec.decode(packet)]

    def _host(self, surface: Any, pts: int) -> nvdecoder.DevicePicture:
        flat = torch.frombuffer(bytearray(ctypes.string_at(surface.address, surface.count)), dtype=torch.uint8)
        size = surface.width, surface.height
        owner, planes = self._new_planes(*(size[::-1] if self._turns % 2 else size))
        originals = nvdecoder.surface_planes(flat, *size, planes[0].dtype != torch.uint8)
        nvdecoder.write_planes(originals, planes, self._turns)
        return nvdecoder.DevicePicture(pts, owner, planes)


def host_frame(width: int, height: int, pixels: Any, device: int) -> tuple[hmp.Frame, tuple[torch.Tensor, ...]]:
    frame = hmp.Frame(width, height, pixels)
    return frame, device_planes(frame)


def pretend(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **capabilities: int) -> FakeLibrary:
    """Makes a FakeLibrary that everything takes for PyNvVideoCodec on a GPU."""
    library = FakeLibrary(*arguments, **capabilities)
    monkeypatch.setattr(nvdecoder, "pynvvideocodec", lambda: library)
    monkeypatch.setattr(nvdecoder, "_primary_context", lambda device: 55)
    monkeypatch.setattr(nvdecoder, "NvDecoder", HostDecoder)
    monkeypatch.setattr(nvdec, "_device_frame", host_frame)
    monkeypatch.setattr(nvdec, "nvdec_missing", lambda device: "")
    monkeypatch.setattr(transcode, "nvdec_missing", lambda device: "")
    return library
