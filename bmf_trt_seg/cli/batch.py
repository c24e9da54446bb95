"""`bmf-trt-seg batch`: many videos, shared out among workers on this machine or a Ray cluster."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from bmf_trt_seg.batch.cluster import connected, room
from bmf_trt_seg.batch.driver import Batch
from bmf_trt_seg.batch.inputs import find_films, place
from bmf_trt_seg.batch.report import Report
from bmf_trt_seg.batch.settings import Settings, model_digest
from bmf_trt_seg.cli.batch_status import BatchStatus
from bmf_trt_seg.cli.logs import log_format_flag
from bmf_trt_seg.cli.options import encoding_flags, given, message_flags, module_flags, set_messages
from bmf_trt_seg.cli.reports import table
from bmf_trt_seg.options import read_options
from bmf_trt_seg.transcode import Encoding

__all__ = ["command"]

_SHOWN = 50  # lines of the table at the end


@click.command(name="batch")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--out", "target", required=True, metavar="DIR",
    help="Folder for the outputs and for what is known of them; a path or an address as s3://bucket/name.",
)  # fmt: skip
@click.option(
    "-y", "--overwrite", is_flag=True, help="Replace files of the outputs' names that were not written by 'batch'."
)
@message_flags
@click.option("-m", "--model", default="person", show_default=True, help="Model file, or a name of 'models list'.")
@module_flags(
    "classes", "style", "alpha", "palette", "background_color", "legend", "threshold", "interval", "smoothing"
)
@module_flags("output", "backend", "device", "build", "input_shapes", "batch_size", "threads")
@click.option("--json", "records", is_flag=True, help="Write a JSON line a frame beside each output: NAME.jsonl.")
@encoding_flags
@click.option(
    "--address", metavar="ADDRESS", envvar="RAY_ADDRESS", show_envvar=True,
    help="Ray cluster to use, from one of its machines: HOST:PORT, or 'auto'.  [default: Ray is started here]",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Most workers at a time.  [default: as many as have room]"
)
@click.option(
    "--cpus-per-worker", type=click.IntRange(1), metavar="N",
    help="CPUs that Ray sets aside for a worker, and threads of its decoder and of its encoder; with 1, all of its "
    "work is done in one thread.  [default: 2; with GPUs, a machine's CPUs shared out among its GPUs]",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(0), default=2, show_default=True, metavar="N",
    help="How often a video is tried again after it failed or its worker was lost.",
)  # fmt: skip
@click.option(
    "--cut-minutes", type=click.FloatRange(0), default=10.0, show_default=True, metavar="X",
    help="Cut videos of more than 1.5 times this length at key frames, for several workers; 0: never.",
)  # fmt: skip
@log_format_flag
def command(
    inputs: tuple[str, ...],
    target: str,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    address: str | None,
    workers: int | None,
    cpus_per_worker: int | None,
    retries: int,
    cut_minutes: float,
    **flags: Any,
) -> int:
    """Draw the classes a network sees on many videos, with Ray.

    INPUT is a video, a folder of videos and of folders, or a pattern, each of them local or s3://. What a run before
    has done is not done again, unless the video, the network or an option has changed.
    """
    set_messages(quiet, verbose)
    options = read_options(given(flags), "batch")
    films, left_out = find_films(inputs, place(target))
    if left_out and not quiet:
        print(
            f"{left_out} other file{'' if left_out == 1 else 's'} left out: no videos by their names", file=sys.stderr
        )
    settings = Settings(
        options=options,
        encoding=Encoding(flags["codec"], flags["preset"], flags["crf"]),
        decoder=flags["decoder"],
        records=flags["records"],
        target=place(target),
        model_sha256=model_digest(options.model),
        cpu_threads=cpus_per_worker or 0,
        cut_seconds=60 * cut_minutes,
        verbose=verbose,
    )
    batch = Batch(films, settings, retries)
    with batch.ledger.locked():
        foreign = batch.check(overwrite)
        if foreign:
            more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
            first = batch.ledger.output(foreign[0])
            raise click.UsageError(f"'{first}' exists{more} and was not written by 'batch'; give -y to replace it")
        report = _run(batch, address, workers, cpus_per_worker, quiet, verbose) if batch.open else batch.nothing_to_do()
    _tell(report, batch, quiet)
    return 0 if report.is_whole else 1


def _run(
    batch: Batch, address: str | None, workers: int | None, cpus_per_worker: int | None, quiet: bool, verbose: bool
) -> Report:
    with connected(address, verbose):
        need = room(batch.settings.options.device, workers, cpus_per_worker)
        batch.settings = replace(batch.settings, cpu_threads=need.cpus)
        with BatchStatus(quiet) as status:
            return batch.run(need, workers, status.update)


def _tell(report: Report, batch: Batch, quiet: bool) -> None:
    rows = report.rows()
    if rows and not (quiet and report.is_whole):
        print(table(("output", "state", "why"), rows[:_SHOWN], left=3), file=sys.stderr)
        if len(rows) > _SHOWN:
            print(f"and {len(rows) - _SHOWN} more, in the report", file=sys.stderr)
    if not quiet:
        print(f"{batch.settings.target}: {report.summary()}; report: {batch.report_path}", file=sys.stderr)
