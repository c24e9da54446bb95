"""SegmentModule: the BMF module. It turns packets into pictures and pictures into packets, and keeps their order."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
from bmf import Packet, Task, Timestamp, VideoFrame

from bmf_trt_seg import changes
from bmf_trt_seg.bmf_frames import Picture, new_device_picture, new_picture, picture_of, watched
from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.errors import SegError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.metrics import open_stream
from bmf_trt_seg.options import read_options
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.records import OutputRecord, frame_record, picture_record
from bmf_trt_seg.segmentation import Batch, Drawn, PicturePipeline
from bmf_trt_seg.watch import streams

__all__ = ["SegmentModule"]

_log = logging.getLogger(__name__)
_PICTURES, _RECORDS = 0, 1  # output streams; the second one is optional


class _Waiting:
    """A picture between its arrival and its departure."""

    def __init__(self, number: int, packet: Packet, source: Picture, planes: FramePlanes, target: Picture) -> None:
        self.number = number
        self.packet_timestamp = packet.timestamp
        self.source = source
        self.planes = planes  # of the source, or of a rescaled copy
        self.target = target
        self.pts = source.frame.pts
        time_base = source.frame.time_base
        self.time_base = Fraction(time_base.num, time_base.den)
        self.since = time.monotonic()


@dataclass(frozen=True)
class _Submitted:
    """Pictures on their way through the pipeline."""

    waiting: list[_Waiting]
    pipeline: PicturePipeline
    batch: Batch
    is_inferred: bool


class SegmentModule(OurModule):
    """Segments the frames of its input stream.

    Output stream 0 carries a frame for each frame that came, in order, with the same timestamps and properties.
    Output stream 1, if the graph connects it, carries a record for each (a dict, see `bmf_trt_seg.records`). A network
    whose task is 'image' or 'raw' draws no classes: its output takes the frame's place, or is in an `OutputRecord`.
    Options: see `bmf_trt_seg.options.SegmentOptions`. The network is loaded here, so a graph with a wrong option ends
    before its first frame.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._options = options = read_options(_own(option))
        cv2.setNumThreads(1)  # a picture is too small to be shared out, and the other cores decode and encode
        self._metrics = open_stream(options.name)
        self._pipeline = open_pipeline(options, self._metrics)
        self._changes = changes.open_stream(options, self._pipeline, self._metrics)
        self._shown = streams.open_stream(options.name, self._pipeline.labels, self._pipeline.colors)
        self._waiting: list[_Waiting] = []
        self._in_flight: deque[_Submitted] = deque()
        self._size_wh: tuple[int, int] | None = None
        self._recorded: PicturePipeline | None = None
        """Whose pictures were recorded last."""

    def dynamic_reset(self, opt_reset: dict[str, Any] | None = None) -> None:
        """Change options of the running stream, from its next frame on; those that are not given stay as they are.

        BMF calls this in the thread of the node, before it gives it the next frames; of several that came meanwhile
        only the last. What is wrong is refused whole, and the log says why: nobody waits for an answer here.
        """
        try:
            self._changes.change(_own(opt_reset))
        except SegError as error:
            _log.warning("stream '%s': not changed: %s", self._metrics.name, error)

    def work(self, task: Task) -> None:
        with self._metrics.at_work():
            self._work(task)
        if task.timestamp == Timestamp.DONE:
            self._metrics.state = "ended"

    def _work(self, task: Task) -> None:
        for packet in packets(task.get_inputs()[0]):
            if packet.timestamp == Timestamp.EOF or self._metrics.stop_requested:
                self._submit(task)
                while self._in_flight:
                    self._send_oldest(task)
                for stream in task.get_outputs().values():
                    stream.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                return
            if packet.is_(VideoFrame):
                if self._changes.ready:
                    self._change(task)
                self._take(packet)
                if self._is_ready():
                    self._submit(task)
        # nothing calls this again before the next frame comes, which may be long after this one should have left
        while self._in_flight and (self._options.max_latency_ms or self._in_flight[0].batch.is_done()):
            self._send_oldest(task)

    def _change(self, task: Task) -> None:
        """Go on with the pipeline that changed options ask for. What came before is drawn by the old one."""
        self._submit(task)
        old, self._pipeline = self._pipeline, self._changes.take(self._metrics.frames_in)
        if self._pipeline.network is not old.network:
            while self._in_flight:
                self._send_oldest(task)
            self._changes.retire(old)
        self._shown.show_classes(self._pipeline.labels, self._pipeline.colors)

    def _take(self, packet: Packet) -> None:
        source = picture_of(packet.get(VideoFrame), self._pipeline.device)
        planes = source.planes
        if self._size_wh is None:
            self._size_wh = planes.width, planes.height
        if (planes.width, planes.height) != self._size_wh:
            if not self._metrics.rescaled:
                _log.warning(
                    "stream '%s': frame %d is %dx%d, the first was %dx%d; frames of another size are scaled to that",
                    self._metrics.name, self._metrics.frames_in, planes.width, planes.height, *self._size_wh,
                )  # fmt: skip
            planes = planes.resized(*self._size_wh)
            self._metrics.rescaled += 1
        # the target is made now, not with its batch, lest that keep other threads from Python for long
        target = self._new_target(source, planes)
        self._waiting.append(_Waiting(self._metrics.frames_in, packet, source, planes, target))
        self._metrics.frames_in += 1

    def _is_ready(self) -> bool:
        """Whether what waits is a full batch, waits for no inference and nothing else, or has waited long enough."""
        due = sum(self._pipeline.is_due(item.number) for item in self._waiting)
        if due == self._pipeline.batch_size or (due == 0 and not self._in_flight):
            return True
        limit = self._options.max_latency_ms / 1000
        return bool(limit) and time.monotonic() - self._waiting[0].since >= limit

    def _submit(self, task: Task) -> None:
        """Have everything that waits segmented and drawn, and send what has to be done before."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        batch = self._pipeline.submit(
            [item.planes for item in waiting],
            [item.number for item in waiting],
            [(item.pts, item.time_base) for item in waiting],
            [item.target.planes for item in waiting],
            wants_maps=_RECORDS in task.get_outputs() or self._shown.wants_map(),
        )
        is_inferred = any(self._pipeline.is_due(item.number) for item in waiting)
        self._in_flight.append(_Submitted(waiting, self._pipeline, batch, is_inferred))
        while self._in_flight and (self._is_crowded() or self._in_flight[0].batch.is_done()):
            self._send_oldest(task)

    def _is_crowded(self) -> bool:
        return sum(one.is_inferred for one in self._in_flight) > self._options.max_in_flight

    def _new_target(self, source: Picture, planes: FramePlanes) -> Picture:
        width, height = self._pipeline.size(planes.width, planes.height)
        size = width + width % 2, height + height % 2  # encoders of 4:2:0 video want even sizes
        device = self._pipeline.device
        if device is not None and self._options.frames_out == "device":
            return new_device_picture(source, *size, device)
        return new_picture(source, *size, pinned=device is not None and device.type == "cuda")

    def _send_oldest(self, task: Task) -> None:
        """Wait for the batch that was submitted first, and send its pictures."""
        submitted = self._in_flight.popleft()
        waiting, batch = submitted.waiting, submitted.batch
        with self._metrics.stage("wait", frame=waiting[0].number, frames=len(waiting)):
            finished = batch.finish()
        outputs = task.get_outputs()
        with self._metrics.stage("output", frame=waiting[0].number, frames=len(waiting)):
            for item, drawn in zip(waiting, finished, strict=True):
                self._shown.show(item.target.planes, drawn.map_hw, item.since)
                gone = self._metrics.departure(item.number)
                frame = item.target.frame if gone is None else watched(item.target.frame, gone)
                _send(outputs[_PICTURES], frame, item.packet_timestamp)
                if _RECORDS in outputs:
                    is_first = self._recorded is not submitted.pipeline
                    self._recorded = submitted.pipeline
                    record = _record(submitted.pipeline, item, drawn, is_first)
                    _send(outputs[_RECORDS], record, item.packet_timestamp)
                self._metrics.frames_out += 1

    def close(self) -> None:
        self._pipeline.close()  # waits for what is in flight
        self._changes.close()
        self._in_flight.clear()
        self._waiting.clear()


def _own(option: dict[str, Any] | None) -> dict[str, Any]:
    """Options without the name of the node, which BMF's Python interface puts among them."""
    return {name: value for name, value in (option or {}).items() if name != "alias"}


def _record(pipeline: PicturePipeline, item: _Waiting, drawn: Drawn, is_first: bool) -> dict[str, Any] | OutputRecord:
    facts: dict[str, Any] = {
        "frame": item.number, "pts": item.pts, "time_base": item.time_base, "inferred": drawn.inferred,
    }  # fmt: skip
    if drawn.outputs is not None:
        return OutputRecord(size_wh=(item.planes.width, item.planes.height), outputs=drawn.outputs, **facts)
    if drawn.map_hw is None:
        return picture_record(size_wh=pipeline.size(item.planes.width, item.planes.height), **facts)
    return frame_record(
        drawn.map_hw, pipeline.labels, pipeline.colors, background=pipeline.background, is_first=is_first, **facts
    )


def _send(stream: Any, content: Any, timestamp: int) -> None:
    packet = Packet(content)
    packet.timestamp = timestamp
    stream.put(packet)
