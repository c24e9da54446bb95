"""A video file in, the same video with its classes drawn on it out: probe, graph, run, finish."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import ConfigError, GraphError, StreamError
from bmf_trt_seg.finish import Finished, finish_video
from bmf_trt_seg.graph import check_graph, run_graph
from bmf_trt_seg.media import VideoInfo, probe_video
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import check_distinct, check_writable, publish, temporary_path, with_final_names

__all__ = ["Encoding", "VideoJob", "segment_video", "video_graph"]

_RATE_PARAMETERS = {
    "libx264": ("x264-params", "fps={rate}:force-cfr=1"),
    "libx265": ("x265-params", "fps={rate}:log-level={loglevel}"),
}
_FINEST_CLOCK = 1_001_000  # the highest rate that FFmpeg's encoders are given; finer time bases are mended afterwards
_CONTAINERS = {".mp4", ".m4v", ".mov", ".mkv", ".ts"}


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded: an FFmpeg encoder's name, its preset and its constant rate factor."""

    codec: str = "libx264"
    preset: str = "veryfast"
    crf: int = 23


@dataclass(frozen=True)
class VideoJob:
    """One video to segment. records and masks are where the records go, as JSON lines and as PNG files, if anywhere."""

    source: Path
    target: Path
    options: SegmentOptions
    encoding: Encoding = Encoding()
    records: Path | None = None
    masks: Path | None = None


def segment_video(
    job: VideoJob, *, verbose: bool = False, watch: Callable[[metrics.StreamMetrics, VideoInfo], None] | None = None
) -> Finished:
    """Run one job. `watch` is called now and then with the counts so far.

    Everything is written under temporary names and renamed at the end: a run that fails leaves nothing. Raises what a
    node raised; StreamError for what cannot be read or written; graph.GraphStopped after Ctrl-C.
    """
    info = probe_video(job.source)
    _check_outputs(job)
    encoded = temporary_path(job.target, "pictures").with_suffix(".mp4")
    target = temporary_path(job.target)
    records = temporary_path(job.records) if job.records else None
    masks = temporary_path(job.masks) if job.masks else None
    finals = [(target, job.target), (encoded, job.target), (records, job.records), (masks, job.masks)]
    graph = video_graph(job, info, encoded, records, masks, verbose)
    counts = metrics.open_stream(job.options.name)  # an earlier job's are not this one's
    problems = check_graph(graph)
    if problems:
        raise ConfigError("; ".join(problems))

    def report() -> None:
        current = metrics.stream(job.options.name)
        if watch is not None and current is not None:
            watch(current, info)

    try:
        try:
            run_graph(graph, verbose=verbose, watch=report)
        except GraphError as error:
            if "failed to decode" in str(error):  # what the decoder says of a video without a single frame
                raise StreamError(f"'{job.source}': not one frame could be decoded") from error
            raise
        report()
        counts = metrics.stream(job.options.name) or counts
        if not counts.frames_in:
            raise StreamError(f"'{job.source}': not one frame could be decoded")
        finished = finish_video(encoded, job.source, target)
        if finished.frames != counts.frames_out:
            raise StreamError(f"'{job.target}' had {finished.frames} frames of the {counts.frames_out} that were drawn")
        if job.masks is not None:
            _remove_masks(job.masks)
        publish({path: final for path, final in finals if path and final and path != encoded})
    except StreamError as error:
        raise StreamError(with_final_names(str(error), finals)) from error
    finally:
        for path, _ in finals:
            if path is not None and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path is not None:
                path.unlink(missing_ok=True)
    return finished


def _remove_masks(folder: Path) -> None:
    """Masks of an earlier, longer video would be taken for this one's; they go when the new ones are complete."""
    for old in folder.glob("[0-9]" * 8 + ".png"):
        old.unlink()


def video_graph(
    job: VideoJob,
    info: VideoInfo,
    encoded: Path,
    records: Path | None = None,
    masks: Path | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """The BMF graph of a job: decoder, SegmentModule, encoder, and RecordSink if records or masks are wanted.

    With `verbose`, FFmpeg and the encoder say what they do.
    """
    rate = (info.rate or Fraction(25)).limit_denominator(1001)
    clock = min(1 / info.time_base, Fraction(_FINEST_CLOCK))
    key, value = _RATE_PARAMETERS[job.encoding.codec]
    loglevel = "info" if verbose else "error"
    encoder = {
        "output_path": str(encoded.absolute()),  # FFmpeg takes 'a:b' for a protocol, but not '/a:b'
        "format": "mp4",
        "loglevel": loglevel,
        # the encoder counts in the source's own units of time, and is told the frame rate for its rate control
        "video_params": {
            "codec": job.encoding.codec,
            "preset": job.encoding.preset,
            "crf": job.encoding.crf,
            "vsync": "passthrough",
            "r": f"{clock.numerator}/{clock.denominator}",
            key: value.format(rate=f"{rate.numerator}/{rate.denominator}", loglevel=loglevel),
            **(
                {"aspect": f"{info.sample_aspect.numerator}:{info.sample_aspect.denominator}"}
                if info.sample_aspect
                else {}
            ),
            **info.color_tags,
        },
        # fragments, because a plain MP4 file ends with a frame of no duration, which players skip
        "mux_params": {
            "video_track_timescale": str(clock.numerator),
            "movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov",
        },
    }
    options = job.options.model_dump(mode="json", exclude_defaults=True)
    wants_records = bool(records or masks)
    nodes = [
        _node(
            0,
            "c_ffmpeg_decoder",
            {
                "input_path": str(job.source.absolute()),
                "map_v": info.stream_index,
                "copyts": 1,
                "loglevel": loglevel,
            },
            [],
            ["video:decoded"],
        ),
        _node(
            1,
            "SegmentModule",
            options,
            ["video:decoded"],
            ["drawn", "records"][: 1 + wants_records],
            "module.SegmentModule",
        ),
        _node(2, "c_ffmpeg_encoder", encoder, ["drawn"], []),
    ]
    if wants_records:
        sink = {"json": str(records or ""), "masks": str(masks or "")}
        nodes.append(_node(3, "RecordSink", sink, ["records"], [], "sinks.RecordSink"))
    return {
        "mode": "Normal",
        "input_streams": [],
        "output_streams": [],
        "option": {"scheduler_count": len(nodes)},
        "nodes": nodes,
    }


def _node(
    number: int, name: str, option: dict[str, Any], inputs: list[str], outputs: list[str], entry: str = ""
) -> dict[str, Any]:
    module = {"name": name, "type": "python", "entry": f"bmf_trt_seg.{entry}"} if entry else {"name": name}
    return {
        "id": number,
        "scheduler": number,  # a thread of its own
        "module_info": module,
        "input_manager": "immediate",
        "input_streams": [{"identifier": stream} for stream in inputs],
        "output_streams": [{"identifier": stream} for stream in outputs],
        "option": option,
    }


def _check_outputs(job: VideoJob) -> None:
    target = job.target
    if target.suffix.lower() not in _CONTAINERS:
        raise ConfigError(f"'{target}': a video is written to {', '.join(sorted(_CONTAINERS))}, not '{target.suffix}'")
    outputs = [path for path in (target, job.records, job.masks) if path is not None]
    check_distinct([job.source], outputs)
    for path in (target, job.records):
        if path is not None and path.is_dir():
            raise StreamError(f"'{path}' is a folder; give the name of a file in it")
    if job.masks is not None and job.masks.exists() and not job.masks.is_dir():
        raise StreamError(f"'{job.masks}' is a file; masks go into a folder")
    for path in outputs:
        check_writable(path)
