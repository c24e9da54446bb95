"""`bmf-trt-seg run`: a graph file, checked and run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg import metrics
from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.graph import checked_graph, variables_flag
from bmf_trt_seg.cli.logs import log_format_flag
from bmf_trt_seg.cli.options import check_trace, set_messages, trace_flag, tracing
from bmf_trt_seg.cli.progress import Progress
from bmf_trt_seg.cli.web import Web, serving, web_flags
from bmf_trt_seg.finish import source_damage
from bmf_trt_seg.options import LiveOptions, read_options

__all__ = ["command"]


@click.command(name="run")
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH.json")
@variables_flag
@trace_flag
@click.option("-y", "--overwrite", is_flag=True, help="Replace a trace that exists.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what BMF and FFmpeg print, too.")
@web_flags
@log_format_flag
def command(
    graph: Path, variables: tuple[str, ...], trace_path: Path | None, overwrite: bool, quiet: bool, verbose: bool,
    web: Web,
) -> int:  # fmt: skip
    """Run a BMF graph. It is checked first; a node that fails ends the run with exit code 1."""
    from bmf_trt_seg.graph import input_files, run_graph, whole_outputs

    set_messages(quiet, verbose)
    content = checked_graph(graph, variables)
    check_trace(trace_path, overwrite, [graph, *input_files(content)], _written_files(content))
    nodes = [
        read_options(node.get("option", {}))
        for node in content["nodes"]
        if str(node["module_info"].get("entry", "")).endswith(".SegmentModule")
    ]
    names = {options.name for options in nodes}

    def frames() -> int:
        counts = [metrics.stream(name) for name in names]
        return sum(count.frames_out for count in counts if count is not None)

    with serving(web, [*_cameras(content), *names]) as health:
        for options in nodes:
            build_engine(options, quiet)

        def watch() -> None:
            health.beat()
            progress.update(frames(), None)

        with tracing(trace_path, quiet), Progress(graph.name, quiet) as progress:
            with whole_outputs(content) as outputs:
                run_graph(outputs, verbose=verbose, watch=watch)
            done = f"{frames()} frames in {progress.seconds:.1f} s" if names else f"{progress.seconds:.1f} s"
            progress.say(f"{graph.name}: done, {done}")
    return _report_damage(input_files(content))


def _cameras(graph: dict[str, Any]) -> list[str]:
    """The names of a graph's live sources."""
    return [
        str(node.get("option", {}).get("name", LiveOptions.model_fields["name"].default))
        for node in graph["nodes"]
        if str(node["module_info"].get("entry", "")).endswith(".LiveSource")
    ]


def _written_files(graph: dict[str, Any]) -> list[Path]:
    """What encoders and RecordSinks of a graph write to."""
    options = [node["option"] for node in graph["nodes"] if isinstance(node.get("option"), dict)]
    return [Path(str(option[key])) for option in options for key in ("output_path", "json") if option.get(key)]


def _report_damage(paths: list[Path]) -> int:
    """BMF's decoder ends at damage as if the video were over; 1 if any input has some."""
    damaged = {path: damage for path in paths if (damage := source_damage(path))}
    for path, damage in damaged.items():
        print(f"bmf-trt-seg: '{path}' is damaged: {damage}; what could be decoded was processed", file=sys.stderr)
    return 1 if damaged else 0
