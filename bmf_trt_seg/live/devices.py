"""Feeds spread over several devices, a process each: where they run, and where they go when a device fails."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from bmf_trt_seg.errors import SegError, StreamError
from bmf_trt_seg.feed_states import FeedState, close_feed
from bmf_trt_seg.http_server import Request
from bmf_trt_seg.live.device import Device
from bmf_trt_seg.live.device_names import pinned_to
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.messages import Message, error_of
from bmf_trt_seg.live.placement import Balance, better_move, imbalance, place
from bmf_trt_seg.live.places import FeedPlace, feed_content, placed, planned_feeds
from bmf_trt_seg.live.signals import HeldSignals, has_terminal
from bmf_trt_seg.live.supervisor import Limits, Report
from bmf_trt_seg.retry import backoff_seconds
from bmf_trt_seg.sources.urls import masked

__all__ = ["Fleet", "supervise_devices"]

_PERIOD = 0.1
_BACKOFF, _BACKOFF_MAX = 1.0, 60.0
_STOP_SECONDS = 3.0  # beside those that feeds have to end
_OVER_SECONDS = 1.0
_OVER = ("ended", "failed", "stopped")
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Wanted:
    """Feeds that a file names, while their devices look at them."""

    feeds: Sequence[Feed]
    pins: Mapping[str, str | None]
    plan: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Future[Message]] | None = None


class Fleet:
    """Devices and feeds. One thread calls what changes something; any may `ask`."""

    def __init__(
        self, devices: Sequence[str], limits: Limits, over: Callable[[Report], None] = lambda _: None,
        *, verbose: bool = False, is_watched: bool = False, ready_seconds: float = 10.0,
    ) -> None:  # fmt: skip
        """over: called with how a feed ended that the file has no more. is_watched: whether pages are asked for."""
        self._limits, self._over = limits, over
        self._settings: Message = {
            "limits": vars(limits), "verbose": verbose, "is_watched": is_watched, "ready_seconds": ready_seconds,
        }  # fmt: skip
        self._devices = [Device(name) for name in devices]
        self._places: list[FeedPlace] = []
        self._leaving: list[FeedPlace] = []
        self._wanted: _Wanted | None = None
        self._waiting_file: Callable[[], Sequence[Feed]] | None = None
        self._has_begun = False
        self._balance = Balance()
        self._stop_began: float | None = None
        self._over_since: float | None = None

    # ---------------------------------------------------------------------------------------------- for other threads

    @property
    def names(self) -> tuple[str, ...]:
        """All devices."""
        return tuple(device.name for device in self._devices)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams of all feeds, in the order of the file."""
        return tuple(stream for place in self._places for stream in place.feed.graph.streams)

    def is_up(self, device: str) -> bool:
        return any(one.takes_feeds for one in self._devices if one.name == device)

    def loads(self) -> dict[str, float]:
        """Measured seconds of inference a second, by device."""
        loads = dict.fromkeys(self.names, 0.0)
        for one in self._places:
            if one.at is not None:
                loads[one.at] += one.meter.load or 0.0
        return loads

    def moves(self) -> dict[str, int]:
        """How often each feed went to another device."""
        return {one.feed.name: one.moves for one in self._places}

    def device_of(self, stream: str) -> str | None:
        """Where a stream runs; None if it waits."""
        return next((one.at for one in self._places if stream in one.feed.graph.streams), None)

    def state_of(self, stream: str) -> FeedState | None:
        """Of the stream's feed."""
        return next((one.state for one in self._places if stream in one.feed.graph.streams), None)

    def ask(self, device: str, request: Request) -> Future[Message] | None:
        """Have a device's process answer a request; None if there is no such process now."""
        worker = next((one.worker for one in self._devices if one.name == device and one.is_up), None)
        return worker.ask(request) if worker is not None else None

    # ---------------------------------------------------------------------------------------------------------- feeds

    def want(self, feeds: Sequence[Feed]) -> None:
        """Have these feeds run and no others, once all devices have found them in order. Raises ConfigError."""
        pins = {feed.name: pinned_to(feed, self.names) for feed in feeds}
        self._wanted = _Wanted(feeds, pins)
        if not self._has_begun:
            self._places = [FeedPlace(feed, pins[feed.name]) for feed in feeds]

    def read(self, file: Callable[[], Sequence[Feed]]) -> None:
        """`want` what a file says now; if it cannot be had, a line in the log says why, and feeds go on as they are."""
        self._waiting_file = file

    def reports(self) -> list[Report]:
        return [*(one.report() for one in self._places), *(one.report(is_leaving=True) for one in self._leaving)]

    @property
    def is_over(self) -> bool:
        return self._stop_began is not None and not any(device.worker for device in self._devices)

    def start(self) -> None:
        """Start a process for each device."""
        for device in self._devices:
            device.start(self._settings)

    def step(self, now: float) -> None:
        """See to everything; to be called a few times a second. Raises SegError if it cannot begin."""
        for device in self._devices:
            self._hear(device, now)
            self._look_at(device, now)
        if self._stop_began is not None:
            return
        self._take_file()
        self._settle_wanted(now)
        self._assign()
        self._keep_balance(now)
        for device in self._devices:
            self._tell(device, now)
        self._end_if_over(now)

    def stop(self, now: float) -> None:
        """Have all feeds end in good order."""
        self._stop_began, self._wanted, self._waiting_file = now, None, None
        for device in self._devices:
            if device.worker is None:
                continue
            if device.is_up:
                device.worker.stop()
            else:
                device.worker.kill()
        for one in self._places:
            if one.at is None and not one.is_over:
                one.state.state, one.state.reason = "stopped", ""

    def leave(self, reason: str) -> None:
        """End what is left at once, for this reason."""
        for one in (*self._places, *self._leaving):
            if one.state.state not in _OVER:
                one.state.reason = reason
        self.close()

    def close(self) -> None:
        """No process is left behind."""
        for device in self._devices:
            if device.worker is not None:
                device.worker.kill()  # all of them, before any is waited for
        for device in self._devices:
            device.kill()

    # -------------------------------------------------------------------------------------------------------- devices

    def _hear(self, device: Device, now: float) -> None:
        worker = device.worker
        while worker is not None and not worker.messages.empty():
            message = worker.messages.get()
            kind = message["kind"]
            if kind == "beat" and device.was_heard():
                _log.warning("device '%s': works again", device.name)
            if kind in ("beat", "ended"):
                self._hear_of_feeds(device, message["reports"], now)
            if kind == "over":
                self._has_left(device, message["report"], now)
            if kind == "ended":
                self._hear_of_the_end(device, message["reports"])
            if kind == "lost":
                device.end(message["reason"], by=now + self._limits.stop)

    def _hear_of_feeds(self, device: Device, reports: Sequence[Message], now: float) -> None:
        for report in sorted(reports, key=lambda report: not report["is_leaving"]):
            found = self._at(device, report["state"]["name"])
            if found is not None:
                found.heard(report, now)

    def _has_left(self, device: Device, report: Message, now: float) -> None:
        found = self._at(device, report["state"]["name"])
        if found is None:
            return
        found.heard(report, now)
        if found in self._leaving:
            self._forget(found)
        elif found.target == device.name:  # the file has changed, and it begins again there
            self._over(found.report(is_leaving=True))
            found.begin_anew()
            found.is_over = False
        else:
            found.is_over = False
            found.left(f"moves to device '{found.target}'")

    def _hear_of_the_end(self, device: Device, reports: Sequence[Message]) -> None:
        """A process that ends because one of its feeds hangs for good: that feed would do so elsewhere, too."""
        for report in reports:
            found = self._at(device, report["state"]["name"])
            if found is None or report["state"]["state"] != "stuck":
                continue
            device.reason = f"feed '{found.feed.name}' hangs for good"
            if self._stop_began is None:
                _log.error("feed '%s': failed: %s", found.feed.name, found.state.reason, extra={"state": "failed"})
                found.state.state, found.is_over = "failed", True

    def _look_at(self, device: Device, now: float) -> None:
        """Whether its process works, and what is to be done if it does not."""
        if self._stop_began is not None:
            self._look_at_the_end(device, now - self._stop_began)
        elif device.worker is None:
            if now >= device.retry_at:
                device.start(self._settings)
        elif device.is_gone(now, self._limits):
            self._hear(device, now)  # its last words
            self._failed(device, now)

    def _look_at_the_end(self, device: Device, seconds: float) -> None:
        """While all are to stop."""
        if device.worker is None:
            return
        is_late = seconds > self._limits.stop + _STOP_SECONDS
        if not is_late and not device.worker.is_over:
            return
        self._hear(device, time.monotonic())
        late, how = f"it could not be stopped in {self._limits.stop:g} s", device.worker.how_it_ended()
        for one in self._sitting(device):
            if one.state.state not in _OVER:
                one.state.reason = one.state.reason or (late if is_late else how)
        device.kill()

    def _failed(self, device: Device, now: float) -> None:
        """Its process is gone; so is what ran there."""
        reason, wait = device.forget_process(now)
        sitting = self._sitting(device)
        moving = ", ".join(one.feed.name for one in sitting if not one.is_over)
        _log.error(
            "device '%s': failed, is tried again in %.1f s: %s; its feeds: %s",
            device.name, wait, masked(reason), moving or "none",
        )  # fmt: skip
        why = f"device '{device.name}' failed: {reason}"
        for one in sitting:
            if not one.is_over:
                _log.warning("feed '%s': waits: %s", one.feed.name, why, extra={"state": "waiting"})
            one.left(why)
            if one in self._leaving:
                self._forget(one)
        for one in self._places:
            if one.target == device.name:
                one.target = None

    # --------------------------------------------------------------------------------------------- what should be run

    def _take_file(self) -> None:
        """Read a file that has changed, when what was read before is settled."""
        if self._waiting_file is None or self._wanted is not None:
            return
        file, self._waiting_file = self._waiting_file, None
        try:
            self.want(file())
        except SegError as error:
            _log.error("the feeds go on as they are: %s", masked(str(error)))

    def _settle_wanted(self, now: float) -> None:
        """Have the devices look at feeds before any of them is run."""
        wanted = self._wanted
        if wanted is None:
            return
        if wanted.answers is None:
            if not self._has_begun and any(one.worker is not None and not one.is_up for one in self._devices):
                return  # they start
            self._ask_devices(wanted)
        assert wanted.answers is not None
        if not all(one.done() for one in wanted.answers.values()):
            return
        if any(one.exception() is not None for one in wanted.answers.values()):
            wanted.answers = None  # a device has failed meanwhile: the others look again
            return
        refused = {name: error for one in wanted.answers.values() for name, error in one.result()["refused"].items()}
        self._wanted = None
        if not refused:
            self._adopt(wanted)
            return
        first = error_of(next(refused[feed.name] for feed in wanted.feeds if feed.name in refused))
        if not self._has_begun:
            raise first
        _log.error("the feeds go on as they are: %s", masked(str(first)))
        for device in self._devices:
            if device.takes_feeds and device.worker is not None:
                device.worker.set_feeds("check", [], [], False)  # frees what was loaded for it

    def _ask_devices(self, wanted: _Wanted) -> None:
        there = [device for device in self._devices if device.takes_feeds]
        if not there and not self._has_begun:
            raise StreamError("no device works; the lines before say why")
        names = [device.name for device in there]
        known = {one.feed.name: one for one in self._places}
        planned = planned_feeds(wanted.feeds, wanted.pins, known)
        stay = {one.name: one.device for one in planned if one.device is not None and one.device in names}
        plan = wanted.plan = {**stay, **place(planned, names)}
        running = [one.feed.graph for one in (*self._places, *self._leaving) if one.at is not None]
        in_use = [place for graph in running for place in graph.outputs]
        wanted.answers = {}
        for device in there:
            assert device.worker is not None
            contents = [feed_content(feed) for feed in wanted.feeds if plan.get(feed.name) == device.name]
            wanted.answers[device.name] = device.worker.set_feeds("check", contents, in_use, True)

    def _adopt(self, wanted: _Wanted) -> None:
        known = {one.feed.name: one for one in self._places}
        added = [feed.name for feed in wanted.feeds if feed.name not in known]
        changed = [feed.name for feed in wanted.feeds if feed.name in known and feed != known[feed.name].feed]
        places = []
        for feed in wanted.feeds:
            one = known.pop(feed.name, None)
            if one is None:
                one = FeedPlace(feed, wanted.pins[feed.name])
            else:
                one.replace(feed, wanted.pins[feed.name])
            one.target = wanted.plan.get(feed.name)
            places.append(one)
        self._places = places
        self._leaving += known.values()
        for one in known.values():
            one.target = None
            if one.at is None:
                one.state.state = "stopped"
                self._forget(one)
        for device in self._devices:
            device.is_new = True
        if self._has_begun:
            _log.info(
                "feeds file read again: %d feeds; added: %s; removed: %s; changed: %s",
                len(places), *(", ".join(names) or "none" for names in (added, known, changed)),
            )  # fmt: skip
        self._has_begun = True

    def _assign(self) -> None:
        """A device for each feed that should run and has none."""
        if not self._has_begun:
            return
        there = [device.name for device in self._devices if device.takes_feeds]
        for one in self._places:
            if one.target is not None and one.target not in there and one.at is None:
                one.target = None
        found = place(placed(self._places), there)
        for one in self._places:
            if one.is_over or one.target is not None:
                continue
            one.target = found.get(one.feed.name)
            if one.target is None and one.at is None and one.state.state != "waiting":
                one.wait(f"waits for device '{one.pinned}'" if one.pinned else "no device works")

    def _keep_balance(self, now: float) -> None:
        """Move one feed, if loads have been uneven for long or a device has come back."""
        there = [device.name for device in self._devices if device.takes_feeds]
        if self._wanted is not None or any(one.is_on_its_way for one in self._places):
            return
        feeds = placed(self._places)
        has_returned = any(device.returns for device in self._devices)
        if not self._balance.is_lost(imbalance(feeds, there), now) and not has_returned:
            return
        move = better_move(feeds, there)
        if move is None:
            for device in self._devices:
                device.returns = False
            return
        name, to = move
        one = next(one for one in self._places if one.feed.name == name)
        _log.info("feed '%s': moves from device '%s' to '%s'", name, one.at, to)
        one.target = to
        self._balance.begin_anew()

    def _tell(self, device: Device, now: float) -> None:
        """Let a device's process know what it should run, if that is not what it was told last."""
        self._hear_of_refusals(device, now)
        worker = device.worker
        if not device.takes_feeds or worker is None or device.setting is not None or not self._has_begun:
            return
        others = [one for one in (*self._places, *self._leaving) if one.at not in (None, device.name)]
        given = [
            one
            for one in self._places
            if one.target == device.name
            and (one.at == device.name or (one.at is None and not one.is_over and now >= one.retry_at))
            and not (one.at is None and any(one.collides(other) for other in others))
        ]
        if given == device.given and not device.is_new:
            return
        contents = [
            one.sent if one.at == device.name and not device.is_new else one.send_to(device.name) for one in given
        ]
        device.setting = worker.set_feeds("feeds", contents, [], device.is_new)
        device.given, device.is_new = given, False

    def _hear_of_refusals(self, device: Device, now: float) -> None:
        """Feeds that a device could not take wait, and are placed anew."""
        if device.setting is None or not device.setting.done():
            return
        answer, device.setting = device.setting, None
        if answer.exception() is not None:
            return  # its end is seen elsewhere
        for name, content in answer.result()["refused"].items():
            found = self._at(device, name)
            if found is None:
                continue
            found.failures += 1
            wait = backoff_seconds(found.failures, _BACKOFF, _BACKOFF_MAX)
            reason = str(error_of(content))
            _log.error(
                "feed '%s': cannot run on device '%s', is tried again in %.1f s: %s",
                name, device.name, wait, masked(reason), extra={"state": "waiting"},
            )  # fmt: skip
            found.at, found.target, found.retry_at = None, None, now + wait
            found.wait(reason)
            device.given = [one for one in device.given if one is not found]
            if found in self._leaving:
                self._forget(found)

    def _end_if_over(self, now: float) -> None:
        """When all feeds are over, so is everything."""
        is_over = self._has_begun and self._wanted is None and all(one.is_over for one in self._places)
        if not is_over or any(device.setting is not None for device in self._devices):
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= _OVER_SECONDS:  # a process that was just told more has had time to say so
            self.stop(now)

    # -------------------------------------------------------------------------------------------------------- look-ups

    def _at(self, device: Device, name: str) -> FeedPlace | None:
        return next((one for one in self._sitting(device) if one.feed.name == name), None)

    def _sitting(self, device: Device) -> list[FeedPlace]:
        return [one for one in (*self._leaving, *self._places) if one.at == device.name]

    def _forget(self, one: FeedPlace) -> None:
        self._leaving.remove(one)
        self._over(one.report(is_leaving=True))
        close_feed(one.state)


def supervise_devices(
    fleet: Fleet,
    feeds: Sequence[Feed],
    signals: HeldSignals,
    *,
    watch: Callable[[Sequence[Report]], None] = lambda _: None,
    read: Callable[[], Sequence[Feed]] | None = None,
) -> tuple[list[Report], int | None]:
    """`supervise` on several devices: run feeds until all have ended or a signal comes; how each ended, and the signal.

    read: gives the feeds that should run when SIGHUP comes. Raises SegError if something is wrong with the feeds.
    """
    had_terminal = has_terminal()
    number: int | None = None
    try:
        fleet.want(feeds)
        fleet.start()
        while not fleet.is_over:
            came = signals.wait(_PERIOD)
            now = time.monotonic()
            if came == signal.SIGHUP and number is not None:  # a terminal that goes sends it more than once
                came = None
            if came is not None and number is not None:
                fleet.leave("it had not ended yet when a second signal came")
                break
            if came == signal.SIGHUP and read is not None and (has_terminal() or not had_terminal):
                fleet.read(read)
                came = None
            if came is not None:
                number = came
                fleet.stop(now)
            fleet.step(now)
            with suppress(OSError):  # nobody reads what it prints any more, or that disk is full: feeds go on
                watch(fleet.reports())
    finally:
        fleet.close()
    return fleet.reports(), number
