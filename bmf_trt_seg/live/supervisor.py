"""Runs the graphs of many feeds beside each other: starts, watches, restarts and stops each without the others."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bmf_trt_seg import changes, metrics
from bmf_trt_seg.errors import GraphError, SegError
from bmf_trt_seg.feed_states import FeedState, close_feed, open_feed
from bmf_trt_seg.graph import run_graph, whole_outputs
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.reread import Reread, Rereading
from bmf_trt_seg.live.signals import HeldSignals, has_terminal
from bmf_trt_seg.metrics import OutputMetrics
from bmf_trt_seg.native_output import captured_output
from bmf_trt_seg.options import SegmentOptions, read_options
from bmf_trt_seg.retry import backoff_seconds
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.watch import streams as watched_streams

__all__ = ["Limits", "Report", "Totals", "collide", "supervise"]

_PERIOD = 0.2
_RAN_WELL_SECONDS = 30.0  # after which a failure is a new one
_HURRY = 0.6  # of the time for stopping; frames on their way are given up then
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Times in seconds."""

    stop: float = 10.0
    """How long feeds may take to end in good order."""
    stuck: float = 30.0
    """How long a feed may give no frame though its camera sends some."""


@dataclass
class Totals:
    """Frames of a feed, over all its starts."""

    frames_in: int = 0
    frames_out: int = 0
    dropped: int = 0
    repeated: int = 0
    reconnects: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def all_accounted_for(self) -> Totals:
        """Of a graph that is over: frames that were on their way through it, if it failed, are dropped too."""
        on_their_way = max(0, self.frames_in + self.repeated - self.frames_out - self.dropped)
        return replace(self, dropped=self.dropped + on_their_way)


@dataclass(frozen=True)
class Report:
    """How a feed is, or how it ended: by itself ('ended'), by us ('stopped'), or 'failed'."""

    state: FeedState
    totals: Totals
    is_leaving: bool = False
    """Whether it ends because the feeds file has it no more, or otherwise."""

    @property
    def device(self) -> str:
        """Where it runs, if there are several devices that it might run on."""
        return ""

    @property
    def camera(self) -> str | None:
        """What its streams say of their camera; None if they say nothing yet."""
        views = filter(None, map(metrics.view, self.state.streams))
        return next((view.state for view in views if view.state is not None), None)

    @property
    def outputs(self) -> list[OutputMetrics]:
        """Those of its sinks."""
        sinks = (metrics.stream(name, "sink") for name in self.state.streams)
        return [output for sink in sinks if sink is not None for output in sink.outputs]


@dataclass(eq=False)
class _Run:
    """A feed, in a thread of its own for as long as it is to be started again."""

    feed: Feed
    verbose: bool
    stopping: threading.Event = field(default_factory=threading.Event)
    stop_began: float = 0.0
    state: FeedState = field(init=False)
    graph_runs: bool = False
    """Whether a graph exists; else it waits for its next start."""
    began: float = 0.0
    hang: str = ""
    """Why its graph was asked to end, if it was for hanging."""
    _before: Totals = field(default_factory=Totals)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """For `feed` and `graph_runs` together."""
    _asked: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = self.feed
        """As others want it; `feed` may have options that were changed since."""
        self.state = open_feed(self.feed.name, self.feed.graph.streams)
        self.thread = threading.Thread(target=self._run, name=f"live {self.feed.name}", daemon=True)

    @property
    def is_loading(self) -> bool:
        """Whether a network of its graph is not there yet: to build an engine takes minutes."""
        return any(changes.stream(str(options["name"])) is None for options in self.feed.graph.segments)

    def totals(self) -> Totals:
        """Of its starts before, and of this one."""
        return self._before + (self._counts() if self.graph_runs else Totals())

    def _counts(self) -> Totals:
        totals = Totals()
        for view in filter(None, map(metrics.view, self.feed.graph.streams)):
            totals += Totals(
                frames_in=view.frames_in,
                frames_out=view.frames_out,
                dropped=sum(part.dropped for part in view.parts),
                repeated=sum(part.held for part in view.parts if part.role == "source"),
                reconnects=sum(part.reconnects for part in view.parts if part.role == "source"),
            )
        return totals

    def stop(self, now: float) -> None:
        """Have it end; whoever stops it goes on to ask its graph."""
        self.stopping.set()
        self.stop_began = now

    def change_to(self, feed: Feed) -> bool:
        """Go on as the feeds file says now, and also after a restart; False if its graph cannot without one."""
        if feed.graph.without_segments() != self.feed.graph.without_segments():
            return False
        with self._lock:
            if self.graph_runs:
                try:
                    self._asked = [_change(self._options(segment)) for segment in feed.graph.segments]
                except SegError as error:
                    _log.info("feed '%s': has to be started again: %s", feed.name, error)
                    return False
            self.feed = self.given = feed
        return True

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        failures, name = 0, self.feed.name
        while not self.stopping.is_set():
            self.began = time.monotonic()
            failure = self._run_once()
            seconds, restarts = time.monotonic() - self.began, self.feed.restarts
            if failure is None:
                self.state.state, self.state.reason = "stopped" if self.stopping.is_set() else "ended", ""
                return
            self.state.reason = reason = masked(_in_words(failure))
            if isinstance(failure, _BeginsAnew) and not self.stopping.is_set():
                _log.warning("feed '%s': starts again: %s", name, reason, extra={"state": "restarting"})
                self.state.restarts += 1
                continue
            if isinstance(failure, _BeginsAnew):
                self.state.state, self.state.reason = "stopped", ""
                return
            if self.stopping.is_set() or not restarts.allowed:
                _log.error("feed '%s': failed: %s", name, reason, extra={"state": "failed"})
                self.state.state = "failed"
                return
            failures = 1 if seconds >= _RAN_WELL_SECONDS else failures + 1
            wait = backoff_seconds(failures, restarts.backoff, restarts.backoff_max)
            self.state.state = "restarting"
            _log.error(
                "feed '%s': failed, starts again in %.1f s: %s", name, wait, reason, extra={"state": "restarting"}
            )
            if not self.stopping.wait(wait):
                self.state.restarts += 1
        self.state.state = "stopped"

    def _run_once(self) -> BaseException | None:
        """Run its graph to its end; why that was none of its own."""
        self.hang = ""
        with self._lock:
            graph = self.feed.graph
            for stream in graph.streams:
                metrics.close_stream(stream)  # what the start before has counted is in the totals
                changes.close_stream(stream)  # and its options in `feed`
            self.graph_runs = True
        self.state.state = "running"
        try:
            with whole_outputs(graph.content) if graph.writes_files else nullcontext(graph.content) as content:
                run_graph(content, verbose=self.verbose)
        except BaseException as error:  # a module may raise anything; one feed does not end the others
            return error
        finally:
            with self._lock:
                self._before += self._counts().all_accounted_for()
                self.graph_runs = False
                self._keep_changes()
        if self.hang:
            return GraphError(self.hang)
        sources = (metrics.stream(name, "source") for name in graph.streams)
        reason = next((source.ended_for for source in sources if source is not None and source.ended_for), "")
        if reason:
            return _BeginsAnew(reason)
        if graph.is_endless and not self.stopping.is_set():
            return GraphError("its graph came to an end, though its input has none")
        return None

    def _keep_changes(self) -> None:
        """The next start has the options that this one had in the end, if it is not to have others anyway."""
        if not all(one.done() and one.exception() is None for one in self._asked):
            return  # of the file, and what was not taken over yet
        graph = self.feed.graph
        ended = {name: found.options for name in graph.streams if (found := changes.stream(name)) is not None}
        began = map(self._options, graph.segments)
        if any(options != ended.get(options.name, options) for options in began):
            self.feed = replace(self.feed, graph=graph.with_segments(ended))

    def _options(self, segment: dict[str, object]) -> SegmentOptions:
        return read_options(segment, f"feed '{self.feed.name}', SegmentModule")


def _change(options: SegmentOptions) -> Future[None]:
    """Change the stream of this name. SegError if it does not run yet, or cannot change so while it runs."""
    found = changes.stream(options.name)
    if found is None:
        raise GraphError(f"stream '{options.name}' does not run yet")
    return found.change_to(options)


class _BeginsAnew(GraphError):
    """A graph that ended in good order and wants to be started again."""


def _in_words(failure: BaseException) -> str:
    """Its message; of what nobody raised on purpose, the type as well."""
    return str(failure) if isinstance(failure, SegError) else f"{type(failure).__name__}: {failure}"


@dataclass(eq=False)
class _Watch:
    """Looks at one running feed from outside."""

    run: _Run
    limits: Limits
    began: float = 0.0
    connected: bool = False
    frames: int = -1
    moved: float = 0.0
    """When a frame came through last."""
    arrived: int = 0
    """How many frames had come in by then."""
    stop_by: float | None = None
    """When a feed that hangs should have ended."""

    def is_beyond_help(self, now: float) -> bool:
        """Note what has changed, and ask a feed that hangs to end; whether it did not in time."""
        run = self.run
        if not run.graph_runs:
            self.stop_by = None
            return False
        if self.began != run.began:
            self.began, self.connected, self.frames, self.stop_by = run.began, False, -1, None
        source = next((one for name in run.feed.graph.streams if (one := metrics.stream(name, "source"))), None)
        if source is not None and source.state == "up" and not self.connected:
            self.connected = True
            _log.info("feed '%s': connected", run.feed.name, extra={"state": "up"})
        if self.stop_by is not None:
            if now < self.stop_by:
                return False
            run.state.reason = f"{run.hang}; it could not be stopped in {self.limits.stop:g} s"
            return True
        frames = run.totals().frames_out
        if source is None or frames != self.frames or source.state != "up" or run.is_loading:
            self.frames, self.moved, self.arrived = frames, now, source.frames_in if source is not None else 0
        elif now - self.moved > self.limits.stuck and source.frames_in > self.arrived:
            reason = f"it hangs: no frame came out in {self.limits.stuck:g} s, though its camera sends"
            _log.error("feed '%s': stuck: %s", run.feed.name, reason, extra={"state": "stuck"})
            run.hang, run.state.state, run.state.reason = reason, "stuck", reason
            self.stop_by = now + self.limits.stop
            metrics.request_stop(run.feed.graph.streams)
        return False


class _Taken(NamedTuple):
    """What has changed about the feeds that run, by their names."""

    added: list[str]
    removed: list[str]
    again: list[str]


class _Feeds:
    """All that run, and those that will when what is in their way is over."""

    def __init__(self, feeds: Sequence[Feed], limits: Limits, verbose: bool, over: Callable[[Report], None]) -> None:
        self._limits, self._verbose, self._over = limits, verbose, over
        self._order = [feed.name for feed in feeds]
        self._watches = {run: _Watch(run, limits) for run in (_Run(feed, verbose) for feed in feeds)}
        self._leaving: list[_Run] = []
        self._waiting: list[Feed] = []

    @property
    def runs(self) -> list[_Run]:
        return list(self._watches)

    @property
    def are_over(self) -> bool:
        return not self._waiting and not any(run.thread.is_alive() for run in self._watches)

    def start(self) -> None:
        for run in self._watches:
            run.thread.start()

    def running(self) -> list[Feed]:
        """Those that are to go on."""
        return [run.feed for run in self._watches if run not in self._leaving]

    def reports(self) -> list[Report]:
        """In the order of the file."""
        place = {name: number for number, name in enumerate(self._order)}
        runs = sorted(self._watches, key=lambda run: place.get(run.feed.name, len(place)))
        return [Report(run.state, run.totals(), run in self._leaving) for run in runs]

    def take_over(self, wanted: Sequence[Feed], now: float) -> _Taken:
        """Make the feeds that run those that are wanted: each is changed while it runs, started again, or ended.

        One that is wanted by the very object that it was made of is left as it is.
        """
        self._order = [feed.name for feed in wanted]
        staying = {run.feed.name: run for run in self._watches if run not in self._leaving}
        self._waiting = []
        again: list[str] = []
        for feed in wanted:
            run = staying.get(feed.name)
            if run is not None and (run.given is feed or (run.state.state != "failed" and run.change_to(feed))):
                del staying[feed.name]
            else:
                self._waiting.append(feed)
                again += [feed.name] if run is not None else []
        for run in staying.values():
            run.stop(now)
            self._leaving.append(run)
        added = [feed.name for feed in self._waiting if feed.name not in staying]
        return _Taken(added, [name for name in staying if name not in again], again)

    def step(self, now: float) -> list[_Run]:
        """See to those that come and go, and look at the others; those that hang for good."""
        lost = [watch.run for watch in self._watches.values() if watch.is_beyond_help(now)]
        for run in list(self._leaving):
            if not run.thread.is_alive():
                self._forget(run)
            elif now - run.stop_began > self._limits.stop:
                run.state.reason = f"it could not be stopped in {self._limits.stop:g} s"
                lost.append(run)
            else:
                _ask_to_end([run], in_hurry=now - run.stop_began > self._limits.stop * _HURRY)
        for feed in list(self._waiting):
            if not any(collide(feed, run.feed) for run in self._leaving):
                self._waiting.remove(feed)
                run = _Run(feed, self._verbose)
                self._watches[run] = _Watch(run, self._limits)
                run.thread.start()
        return lost

    def stop(self, now: float) -> None:
        """Have all of them end."""
        self._waiting = []
        for run in self._watches:
            run.stop(now)

    def _forget(self, run: _Run) -> None:
        del self._watches[run]
        self._leaving.remove(run)
        self._over(Report(run.state, run.totals(), True))
        close_feed(run.state)
        for stream in run.feed.graph.streams:
            for part in (metrics, changes, watched_streams):
                part.close_stream(stream)


def collide(one: Feed, other: Feed) -> bool:
    """Whether two feeds cannot run at the same time: they would count, or write, in the same place."""

    def taken(feed: Feed) -> set[str]:
        return {feed.name, *feed.graph.streams, *feed.graph.outputs}

    return bool(taken(one) & taken(other))


def supervise(
    feeds: Sequence[Feed],
    signals: HeldSignals,
    limits: Limits = Limits(),
    *,
    verbose: bool = False,
    watch: Callable[[Sequence[Report]], None] | None = None,
    reread: Reread | None = None,
    over: Callable[[Report], None] = lambda _: None,
    is_worker: bool = False,
) -> tuple[list[Report], int | None]:
    """Run feeds until all have ended or a signal comes; how each ended, and the signal.

    watch is called every 0.2 s with how they are, in this thread. reread is called in a thread of its own when SIGHUP
    comes, unless that is because the terminal is gone, and what it gives is run from then on; over, with how a feed
    ended that is not among that. A feed whose state in the result is 'running' or 'stuck' could not be stopped, and
    says why in its reason: its thread is left behind, and so is its graph's. If one hangs for good, the others are
    stopped, too. is_worker: another process says what to run, by `reread`; until a signal there may be nothing.
    """
    all_feeds = _Feeds(feeds, limits, verbose, over)
    rereading = Rereading(reread) if reread is not None else None
    had_terminal = has_terminal()
    lost: list[_Run] = []  # those that hang for good
    number: int | None = None
    is_stopping, stop_began = False, 0.0
    with captured_output(not verbose):  # not given back and taken again by each feed: others print meanwhile
        all_feeds.start()
        while not all_feeds.are_over or (
            not is_stopping and (is_worker or (rereading is not None and rereading.is_busy))
        ):
            came = signals.wait(_PERIOD)
            now = time.monotonic()
            if came is not None and number is not None:
                # a terminal that goes sends SIGHUP more than once, and who stops a worker also ends it if it has to
                if came == signal.SIGHUP or is_worker:
                    came = None
                else:
                    _leave(all_feeds.runs, "it had not ended yet when a second signal came")
                    break
            if came == signal.SIGHUP and rereading is not None and (has_terminal() or not had_terminal):
                rereading.ask()
                came = None
            number = came if came is not None else number
            if not is_stopping:
                wanted = rereading.result(all_feeds.running) if rereading is not None else None
                if wanted is not None:
                    _tell_of_changes(all_feeds.take_over(wanted, now), len(wanted), is_worker)
                lost = all_feeds.step(now)
                if number is not None or lost:
                    is_stopping, stop_began = True, now
                    all_feeds.stop(now)
            if is_stopping:
                runs = all_feeds.runs
                if all(not run.thread.is_alive() or run in lost for run in runs):
                    break
                if now - stop_began > limits.stop:
                    _leave([run for run in runs if run not in lost], f"it could not be stopped in {limits.stop:g} s")
                    break
                # every time, since graphs may have been about to start
                _ask_to_end(runs, in_hurry=now - stop_began > limits.stop * _HURRY)
            if watch is not None:
                with suppress(OSError):  # nobody reads what it prints any more, or that disk is full: feeds go on
                    watch(all_feeds.reports())
        if rereading is not None:
            rereading.close(limits.stop)
    return all_feeds.reports(), number


def _tell_of_changes(taken: _Taken, feeds: int, is_worker: bool) -> None:
    if not is_worker:
        _log.info(
            "feeds file read again: %d feeds; added: %s; removed: %s; started again: %s",
            feeds, *(", ".join(names) or "none" for names in taken),
        )  # fmt: skip
        return
    for name in taken.again:  # all else, the other process knows
        _log.info("feed '%s': has to be started again, since the feeds file has changed", name)


def _leave(runs: Sequence[_Run], reason: str) -> None:
    for run in runs:
        if run.thread.is_alive():
            run.state.reason = reason


def _ask_to_end(runs: Sequence[_Run], in_hurry: bool) -> None:
    """Ask sources to end, behind whose last frames the rest does; what has no source, and all in a hurry, itself."""
    for run in runs:
        streams = run.feed.graph.streams
        has_source = any(metrics.stream(name, "source") for name in streams)
        metrics.request_stop(streams, "source" if has_source and not in_hurry else None)
