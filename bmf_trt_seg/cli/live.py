"""`bmf-trt-seg live`: many live feeds, in one process or one a device."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.graph import given_variables, variables_flag
from bmf_trt_seg.cli.live_status import LiveStatus
from bmf_trt_seg.cli.logs import failure, log_format_flag
from bmf_trt_seg.cli.options import set_messages
from bmf_trt_seg.cli.web import Web, serving, serving_devices, web_flags
from bmf_trt_seg.health import Health
from bmf_trt_seg.live.device_names import chosen_devices, environment, for_one_device, pinned_to
from bmf_trt_seg.live.devices import Fleet, supervise_devices
from bmf_trt_seg.live.feeds import Feed, FeedsReader
from bmf_trt_seg.live.networks import feed_options, loaded_networks
from bmf_trt_seg.live.signals import HeldSignals, Interrupted
from bmf_trt_seg.live.sinks import check_encoders, check_outputs
from bmf_trt_seg.live.supervisor import Limits, Report, supervise

__all__ = ["command"]

_NOT_OVER = ("starting", "running", "stuck", "restarting", "waiting")
_log = logging.getLogger(__name__)


@click.command(name="live")
@click.argument("path", type=click.Path(path_type=Path), metavar="FEEDS.json")
@variables_flag
@click.option("--check", is_flag=True, help="Only check the file, its graphs and networks; start nothing.")
@click.option(
    "--stop-seconds", type=click.FloatRange(0, 600, min_open=True), default=Limits.stop, show_default=True,
    help="How long feeds may take to end in good order when the program is stopped.",
)  # fmt: skip
@click.option(
    "--stuck-seconds", type=click.FloatRange(1, 3600), default=Limits.stuck, show_default=True,
    help="A feed that gives no frame for so long, though its camera sends some, is taken for hanging; with --devices, "
    "a process that says nothing as well.",
)  # fmt: skip
@click.option(
    "--devices", "device_names", metavar="auto|NAME,...",
    help="Spread the feeds over these devices, a process each: auto for all GPUs, or as in cuda:0,cuda:1 or "
    "cpu:0,cpu:1. The feeds of one that fails go to the others.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what BMF and FFmpeg print, too.")
@web_flags
@log_format_flag
def command(
    path: Path, variables: tuple[str, ...], check: bool, stop_seconds: float, stuck_seconds: float,
    device_names: str | None, quiet: bool, verbose: bool, web: Web,
) -> int:  # fmt: skip
    """Run the live feeds that a file names, and start those again that fail.

    Ends when all feeds have: with exit code 0 by themselves, with 1 if one failed for good. After a signal they end in
    good order, and the code is 130 (Ctrl-C), 143 (SIGTERM) or 129 (the terminal is gone); a second Ctrl-C or SIGTERM
    ends it at once. SIGHUP has the file read again: feeds that are new in it are started, others are changed or ended.
    """
    set_messages(quiet, verbose)
    devices = () if device_names is None else chosen_devices(device_names)
    reader = FeedsReader(path, given_variables(variables))

    def read() -> list[Feed]:
        feeds = reader.read()
        for feed in feeds if devices else ():
            pinned_to(feed, devices)
        return [for_one_device(feed) for feed in feeds] if len(devices) == 1 else feeds

    if len(devices) == 1:  # nothing has looked for GPUs yet
        os.environ["CUDA_VISIBLE_DEVICES"] = environment(devices[0])["CUDA_VISIBLE_DEVICES"]
    feeds = read()
    if check:
        with loaded_networks(feeds):
            check_encoders(feeds, verbose)
            click.echo(f"{path}: {len(feeds)} feed{'s' if len(feeds) > 1 else ''}, nothing wrong")
        return 0
    streams = [name for feed in feeds for name in feed.graph.streams]
    limits = Limits(stop_seconds, stuck_seconds)
    if len(devices) > 1:
        fleet = Fleet(
            devices, limits, lambda one: _tell(one, ""), verbose=verbose, is_watched=web.address is not None,
            ready_seconds=web.ready_seconds,
        )  # fmt: skip
        health = Health(streams, web.ready_seconds)
        with HeldSignals() as signals, serving_devices(web, health, fleet), LiveStatus(quiet) as status:
            watch = _watcher(health, status)
            return _reported(*supervise_devices(fleet, feeds, signals, watch=watch, read=read))
    with HeldSignals() as signals, serving(web, streams) as health:
        try:
            for options in (options for feed in feeds for options in feed_options(feed)):
                if options.backend == "tensorrt":  # it may take minutes
                    build_engine(options, quiet, signals.interrupted)
        except Interrupted as end:
            failure(end)
            return 128 + end.number
        with loaded_networks(feeds) as networks, LiveStatus(quiet) as status:
            check_outputs(feeds, verbose)

            def reread(running: Sequence[Feed]) -> list[Feed]:
                wanted = read()
                new = [feed for feed in wanted if feed not in running]
                try:
                    networks.load(new)
                    check_outputs(new, verbose, in_use={place for feed in running for place in feed.graph.outputs})
                except BaseException:
                    networks.keep(running)
                    raise
                networks.keep(wanted)
                return wanted

            ended, number = supervise(
                feeds, signals, limits, verbose=verbose, watch=_watcher(health, status), reread=reread,
                over=lambda one: _tell(one, ""),
            )  # fmt: skip
    return _reported(ended, number)


def _watcher(health: Health, status: LiveStatus) -> Callable[[Sequence[Report]], None]:
    """Tells others how feeds are."""

    def watch(states: Sequence[Report]) -> None:
        health.expect(name for one in states if not one.is_leaving for name in one.state.streams)
        health.beat()
        status.update(states)

    return watch


def _reported(ended: Sequence[Report], number: int | None) -> int:
    """A line for each feed, and the exit code."""
    name = "" if number is None else f" by {signal.Signals(number).name}"
    for one in ended:
        _tell(one, name)
    left = [one.state for one in ended if one.state.state in _NOT_OVER]
    for state in left:
        failure(f"feed '{state.name}': {state.reason}")
    if number is not None:
        failure(f"stopped{name}")
    if left or any(one.state.state == "failed" for one in ended):
        return 1
    return 0 if number is None else 128 + number


def _tell(one: Report, stopped_by: str) -> None:
    state, totals = one.state, one.totals
    why: str = state.state
    if why in _NOT_OVER:
        why = "not ended"
    elif why == "stopped":
        why += stopped_by
    elif why == "failed":
        why += f": {state.reason}"
    _log.info(
        "feed '%s': frames in %d, out %d, dropped %d, repeated %d; reconnects %d, restarts %d; %s",
        state.name, totals.frames_in, totals.frames_out, totals.dropped, totals.repeated, totals.reconnects,
        state.restarts, why, extra={**vars(totals), "restarts": state.restarts, "state": state.state},
    )  # fmt: skip
