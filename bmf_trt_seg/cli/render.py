"""`bmf-trt-seg render`: recorded masks drawn again, in another style, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.inputs import collect
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
from bmf_trt_seg.cli.segment import segment_one_video
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.options import read_options
from bmf_trt_seg.transcode import Encoding, VideoJob

__all__ = ["command"]


@click.command(name="render")
@click.argument("source", metavar="INPUT")
@click.option(
    "--json", "replay", type=click.Path(), required=True, metavar="FILE", help="Records that 'segment --json' wrote."
)
@output_flags
@module_flags("classes", "style", "alpha", "palette", "background_color", "legend", "output")
@encoding_flags
@trace_flag
@log_format_flag
def command(
    source: str, target: Path, overwrite: bool, quiet: bool, verbose: bool, trace_path: Path | None, **flags: Any
) -> int:
    """Draw the recorded masks of a video on it again.

    INPUT is the video that was segmented with --json. The same style gives the same pixels.
    """
    set_messages(quiet, verbose)
    options = read_options(given(flags), "render")
    pairs = collect([source], target, overwrite)
    if pairs.pictures or len(pairs.videos) != 1:
        raise ConfigError(f"'{source}': records are of one video, so render takes one video")
    ((video, output),) = pairs.videos
    check_trace(trace_path, overwrite, [video, Path(flags["replay"])], [output])
    encoding = Encoding(flags["codec"], flags["preset"], flags["crf"])
    with tracing(trace_path, quiet):
        return segment_one_video(VideoJob(video, output, options, encoding, decoder=flags["decoder"]), quiet, verbose)
