"""`bmf-trt-seg segment`: classes drawn on videos or pictures."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg import trace
from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.inputs import Inputs, collect
from bmf_trt_seg.cli.logs import log_format_flag
from bmf_trt_seg.cli.options import (
    check_trace,
    encoding_flags,
    given,
    module_flags,
    output_flags,
    set_messages,
    trace_flag,
    tracing,
)
from bmf_trt_seg.cli.progress import Progress
from bmf_trt_seg.errors import ConfigError, SegError
from bmf_trt_seg.graph import GraphStopped
from bmf_trt_seg.options import SegmentOptions, read_options
from bmf_trt_seg.outputs import folder_made
from bmf_trt_seg.transcode import Encoding, VideoJob

__all__ = ["command", "segment_one_video"]


@click.command(name="segment")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@output_flags
@click.option("-m", "--model", default="person", show_default=True, help="Model file, or a name of 'models list'.")
@module_flags(
    "classes", "style", "alpha", "palette", "background_color", "legend", "threshold", "interval", "smoothing"
)
@module_flags("output", "backend", "device", "build", "input_shapes", "batch_size", "threads")
@click.option("--json", "records", type=click.Path(path_type=Path), metavar="FILE", help="Write a JSON line a frame.")
@click.option("--masks", type=click.Path(path_type=Path), metavar="DIR", help="Write class maps as 8-bit PNG files.")
@encoding_flags
@trace_flag
@log_format_flag
def command(
    inputs: tuple[str, ...],
    target: Path,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    trace_path: Path | None,
    **flags: Any,
) -> int:
    """Draw the classes a network sees on videos or pictures.

    INPUT is a video, a picture, a folder of pictures, or a pattern. Audio and subtitles of a video are copied.
    """
    set_messages(quiet, verbose)
    options = read_options(given(flags), "segment")
    pairs = collect(inputs, target, overwrite)
    with folder_made(pairs.folder) if pairs.folder is not None else nullcontext():
        records, masks = flags["records"], flags["masks"]
        if (records or masks) and (pairs.pictures or len(pairs.videos) != 1):
            raise ConfigError("--json and --masks are for one video at a time")
        for path in (records, masks):
            if path and path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
                raise click.UsageError(f"'{path}' exists; give -y to replace what is in it")
        every = [*pairs.pictures, *pairs.videos]
        check_trace(
            trace_path,
            overwrite,
            [source for source, _ in every],
            [*(output for _, output in every), records],
        )
        build_engine(options, quiet)
        encoding = Encoding(flags["codec"], flags["preset"], flags["crf"])
        with tracing(trace_path, quiet):
            return _segment(pairs, options, encoding, flags["decoder"], records, masks, quiet, verbose)


def _segment(
    pairs: Inputs,
    options: SegmentOptions,
    encoding: Encoding,
    decoder: str,
    records: Path | None,
    masks: Path | None,
    quiet: bool,
    verbose: bool,
) -> int:
    failed = _segment_pictures(pairs.pictures, options, quiet) if pairs.pictures else 0
    for source, output in pairs.videos:
        job = VideoJob(source, output, options, encoding, records, masks, decoder)
        if len(pairs.videos) == 1:
            return segment_one_video(job, quiet, verbose) or failed
        try:
            failed |= segment_one_video(job, quiet, verbose)
        except (ConfigError, GraphStopped):
            raise
        except SegError as error:  # one bad file does not stop the rest
            print(f"bmf-trt-seg: {error}", file=sys.stderr)
            failed = 1
    return failed


def segment_one_video(job: VideoJob, quiet: bool, verbose: bool) -> int:
    """Run a job with its progress shown; the exit code."""
    from bmf_trt_seg.transcode import segment_video

    with trace.timed(job.options.name, "video", file=job.source.name), Progress(job.source.name, quiet) as progress:
        finished = segment_video(
            job, verbose=verbose, watch=lambda counts, info: progress.update(counts.frames_out, info.expected_frames)
        )
        rate = finished.frames / progress.seconds
        progress.say(f"{job.target}: {finished.frames} frames in {progress.seconds:.1f} s, {rate:.1f} a second")
        if finished.moved:
            progress.say(
                f"{job.target}: {finished.moved} frames have no time of their own in '{job.source}' and follow the one "
                "before at once"
            )
        if finished.left_out:
            progress.say(
                f"{job.target}: left out, because this container cannot hold it: {', '.join(finished.left_out)}"
            )
    if finished.damage:
        print(
            f"bmf-trt-seg: '{job.source}' is damaged: {finished.damage}; the {finished.frames} frames that could be "
            f"decoded are in '{job.target}'",
            file=sys.stderr,
        )
        return 1
    return 0


def _segment_pictures(pairs: list[tuple[Path, Path]], options: SegmentOptions, quiet: bool) -> int:
    from bmf_trt_seg.pictures import segment_pictures

    with Progress("pictures", quiet) as progress:
        failures = segment_pictures(pairs, options, lambda done: progress.update(done, len(pairs)))
        done = len(pairs) - len(failures)
        where = pairs[0][1] if len(pairs) == 1 else pairs[0][1].parent
        if done:
            progress.say(f"{where}: {done} picture{'s' if done > 1 else ''} in {progress.seconds:.1f} s")
    for failure in failures:
        print(f"bmf-trt-seg: {failure}", file=sys.stderr)
    return 1 if failures else 0
