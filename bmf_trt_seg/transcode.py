"""A video file in, the same video with its classes drawn on it out: probe, graph, run, finish."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, GraphError, StreamError
from bmf_trt_seg.finish import Finished, finish_video
from bmf_trt_seg.graph import GraphStuck, check_graph, run_graph
from bmf_trt_seg.hardware import NVENC, nvdec_missing, nvenc_missing
from bmf_trt_seg.media import VideoInfo, probe_video
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import check_distinct, check_writable, publish, temporary_path, with_final_names
from bmf_trt_seg.sources.packets import Track, nvdec_refusal

__all__ = ["Encoding", "VideoJob", "draw_video", "segment_video", "video_graph"]

_RATE_PARAMETERS = {
    "libx264": ("x264-params", "fps={rate}:force-cfr=1"),
    "libx265": ("x265-params", "fps={rate}:log-level={loglevel}"),
}
# NVENC's presets by x264's: the names that FFmpeg 4.3 has as well as later ones
_FAST, _SLOW = {"ultrafast", "superfast", "veryfast"}, {"slow", "slower", "veryslow"}
_ENGINES = {".engine", ".plan", ".trt"}  # files that run on a GPU only
_FINEST_CLOCK = 1_001_000  # the highest rate that FFmpeg's encoders are given; finer time bases are mended afterwards
_CONTAINERS = {".mp4", ".m4v", ".mov", ".mkv", ".ts"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded: FFmpeg's name of the encoder, x264's name of a preset, the constant rate factor.

    'auto' is h264_nvenc where that can be used, else libx264. NVENC takes its preset and quality nearest to these.
    """

    codec: str = "libx264"
    preset: str = "veryfast"
    crf: int = 23


@dataclass(frozen=True)
class VideoJob:
    """One video to segment. records and masks are where the records go, as JSON lines and as PNG files, if anywhere.

    decoder: 'nvdec' for NvDecSource, 'ffmpeg' for BMF's own decoder; 'auto' takes NVDEC if the network runs on a GPU
    and that can decode this video. cpu_threads: how many decoder and encoder take each, if they run on the CPU; 0
    leaves that to them, and 1 makes one thread of the whole graph.
    """

    source: Path
    target: Path
    options: SegmentOptions
    encoding: Encoding = Encoding()
    records: Path | None = None
    masks: Path | None = None
    decoder: str = "auto"
    cpu_threads: int = 0


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
    try:
        counts = draw_video(job, info, encoded, records, masks, verbose=verbose, watch=watch)
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


def draw_video(
    job: VideoJob,
    info: VideoInfo,
    encoded: Path,
    records: Path | None = None,
    masks: Path | None = None,
    *,
    verbose: bool = False,
    watch: Callable[[metrics.StreamMetrics, VideoInfo], None] | None = None,
    adapt: Callable[[dict[str, Any]], None] | None = None,
) -> metrics.StreamMetrics:
    """Run the graph of a job: the encoder writes its drawn pictures, and nothing else, to `encoded`; what was counted.

    `watch` is called now and then with the counts so far; `adapt` may change the graph after it was checked. What is
    written when this raises is of no use. Raises what `segment_video` does.
    """
    job, engines = _with_engines(job)
    graph = video_graph(job, info, encoded, records, masks, verbose)
    counts = metrics.open_stream(job.options.name)  # an earlier job's are not this one's
    problems = check_graph(graph)
    if problems:
        raise ConfigError("; ".join(problems))
    if adapt is not None:
        adapt(graph)

    told = False

    def report() -> None:
        nonlocal told
        current = metrics.stream(job.options.name)
        if not told and current is not None and current.frames_in:  # a run that fails before has one line to say
            told = True
            _log.info("stream '%s': %s", job.options.name, engines)
        if watch is not None and current is not None:
            watch(current, info)

    try:
        run_graph(graph, verbose=verbose, watch=report)
    except GraphError as error:
        # what the decoder says at its end if it could decode less than a third, unless BMF gets stuck over that
        if "failed to decode" in str(error) or (isinstance(error, GraphStuck) and job.decoder == "ffmpeg"):
            raise StreamError(_too_little(job)) from error
        if "Could not find audio or video stream" in str(error):  # it has one for PyAV, whose FFmpeg is newer
            raise StreamError(f"'{job.source}' cannot be read by BMF's FFmpeg: it finds no video in it") from error
        raise
    report()
    counts = metrics.stream(job.options.name) or counts
    if not counts.frames_in:
        raise StreamError(f"'{job.source}': not one frame could be decoded")
    return counts


def _too_little(job: VideoJob) -> str:
    counts = metrics.stream(job.options.name)
    if counts is None or not counts.frames_in:
        return f"'{job.source}': not one frame could be decoded"
    return f"'{job.source}' is damaged: most of its frames could not be decoded, so that nothing was written"


def _with_engines(job: VideoJob) -> tuple[VideoJob, str]:
    """The job with a decoder and an encoder in the place of 'auto', and in words which.

    Raises BackendUnavailable or StreamError if what was asked for by name cannot be used.
    """
    reason = ""
    if job.decoder == "nvdec" or (job.decoder == "auto" and _is_for_gpu(job)):
        missing = nvdec_missing(_gpu(job))
        reason = missing or _refusal(job.source)
        if reason and job.decoder == "nvdec":
            kind = BackendUnavailable if missing else StreamError
            raise kind(f"'{job.source}' cannot be decoded by NVDEC: {reason}; leave out '--decoder nvdec'")
        job = replace(job, decoder="ffmpeg" if reason else job.decoder)
    else:
        job = replace(job, decoder="ffmpeg")
    codec = job.encoding.codec
    if codec == "auto":
        codec = "libx264" if nvenc_missing("h264_nvenc", _gpu(job)) else "h264_nvenc"
    elif codec in NVENC and (missing := nvenc_missing(codec, _gpu(job))):
        raise BackendUnavailable(f"encoder '{codec}' cannot be used: {missing}; '--codec auto' takes libx264 then")
    decoder = "FFmpeg" if job.decoder == "ffmpeg" else "NVDEC"
    why = f" (not NVDEC: {reason})" if reason else ""
    return replace(job, encoding=replace(job.encoding, codec=codec)), f"decoder {decoder}{why}, encoder {codec}"


def _is_for_gpu(job: VideoJob) -> bool:
    """Whether the network runs on a GPU, as far as its options tell."""
    options = job.options
    is_engine = options.backend == "tensorrt" or Path(options.model).suffix.lower() in _ENGINES
    return options.device.startswith("cuda") or (is_engine and options.device != "cpu")


def _gpu(job: VideoJob) -> str:
    return job.options.device if job.options.device.startswith("cuda:") else "cuda:0"


def _refusal(source: Path) -> str:
    with Track(str(source.absolute())) as track:
        return nvdec_refusal(track.info)


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

    Decoder and encoder are as the job names them: decoder 'auto' is NvDecSource, which finds out by itself.

    With `verbose`, FFmpeg and the encoder say what they do.
    """
    rate = (info.rate or Fraction(25)).limit_denominator(1001)
    clock = min(1 / info.time_base, Fraction(_FINEST_CLOCK))
    is_nvdec = job.decoder != "ffmpeg"
    loglevel = "info" if verbose else "error"
    rate_text = f"{rate.numerator}/{rate.denominator}"
    own_parameters = _RATE_PARAMETERS.get(job.encoding.codec)
    if own_parameters and job.cpu_threads and job.encoding.codec == "libx265":  # beside the threads that FFmpeg names
        own_parameters = own_parameters[0], f"{own_parameters[1]}:pools={job.cpu_threads}"
    encoder = {
        "output_path": str(encoded.absolute()),  # FFmpeg takes 'a:b' for a protocol, but not '/a:b'
        "format": "mp4",
        "loglevel": loglevel,
        # the encoder counts in the source's own units of time, and is told the frame rate for its rate control
        "video_params": {
            "codec": job.encoding.codec,
            **_quality(job.encoding),
            **({"threads": job.cpu_threads} if job.cpu_threads and job.encoding.codec not in NVENC else {}),
            "vsync": "passthrough",
            "r": f"{clock.numerator}/{clock.denominator}",
            **(
                {own_parameters[0]: own_parameters[1].format(rate=rate_text, loglevel=loglevel)}
                if own_parameters
                else {}
            ),
            # frames of a Python module do not say in what unit they are timed
            **({"in_time_base": f"{info.time_base.numerator},{info.time_base.denominator}"} if is_nvdec else {}),
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
        _nvdec_node(job) if is_nvdec else _decoder_node(job, info, loglevel),
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
    if job.cpu_threads == 1:
        for node in nodes:
            node["scheduler"] = 0
    return {
        "mode": "Normal",
        "input_streams": [],
        "output_streams": [],
        "option": {"scheduler_count": len({node["scheduler"] for node in nodes})},
        "nodes": nodes,
    }


def _decoder_node(job: VideoJob, info: VideoInfo, loglevel: str) -> dict[str, Any]:
    option = {
        "input_path": str(job.source.absolute()),
        "map_v": info.stream_index,
        "copyts": 1,
        "loglevel": loglevel,
        **({"dec_params": {"threads": str(job.cpu_threads)}} if job.cpu_threads else {}),
    }
    return _node(0, "c_ffmpeg_decoder", option, [], ["video:decoded"])


def _nvdec_node(job: VideoJob) -> dict[str, Any]:
    option = {"path": str(job.source.absolute()), "decoder": job.decoder, "device": _gpu(job)}
    return _node(0, "NvDecSource", option, [], ["video:decoded"], "sources.NvDecSource")


def _quality(encoding: Encoding) -> dict[str, Any]:
    """Preset and quality in the encoder's own parameters."""
    if encoding.codec not in NVENC:
        return {"preset": encoding.preset, "crf": encoding.crf}
    preset = "fast" if encoding.preset in _FAST else "slow" if encoding.preset in _SLOW else "medium"
    # FFmpeg 4.3 holds on to a bit rate of 2 Mbit/s unless it is told that there is none
    return {"preset": preset, "rc": "vbr", "cq": encoding.crf, "b": "0"}


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
