"""A process of `live` that runs feeds on one device: those that its parent says, for as long as that is there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from bmf_trt_seg import changes, metrics
from bmf_trt_seg.errors import SegError
from bmf_trt_seg.health import Health
from bmf_trt_seg.http_server import Endless, Page, Request, Response
from bmf_trt_seg.live.device_names import gpu_count
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.messages import (
    Channel,
    Message,
    content_of_error,
    content_of_log,
    content_of_response,
    feed_of,
    request_of,
)
from bmf_trt_seg.live.networks import Networks, feed_options
from bmf_trt_seg.live.signals import HeldSignals
from bmf_trt_seg.live.sinks import check_outputs
from bmf_trt_seg.live.supervisor import Limits, Report, supervise
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.prometheus import Exposition
from bmf_trt_seg.watch.options_page import add_options_page
from bmf_trt_seg.watch.pages import add_watch_pages
from bmf_trt_seg.watch.status import Status
from bmf_trt_seg.watch.streams import watching

__all__ = ["Probe", "main"]

_PAGES_AT_ONCE = 8
_log = logging.getLogger("bmf_trt_seg")  # this module's own name is that of a program
_EXTRA_SECONDS = 5.0  # beside those for stopping, when the parent is gone


class Pages:
    """What a web server would answer, asked by the parent's in its place."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}

    def page(self, path: str, page: Page, *, takes_changes: bool = False) -> None:
        """As of `HttpServer`; whether somebody may change something is for the parent to say."""
        self._pages[path] = page

    def answer(self, request: Request) -> Response:
        path = request.path
        found = self._pages.get(path) or self._pages.get(path[: path.find("/", 1) + 1])
        answer = found(request) if found is not None else None
        if answer is None or isinstance(answer, Endless):
            return Response.line(404, "not found")
        return answer


class Worker:
    """Takes orders in a thread of its own, and has the supervisor carry them out."""

    def __init__(self, channel: Channel, settings: Message) -> None:
        self._channel = channel
        self._limits = Limits(**settings["limits"])
        self._verbose = bool(settings["verbose"])
        self._is_gpu = bool(settings["is_gpu"])
        self._health = Health((), settings["ready_seconds"])
        self._watched = bool(settings["is_watched"])
        self._networks = Networks()
        self._orders: deque[Message] = deque()
        self._feeds: dict[str, tuple[Message, Feed]] = {}
        """What it runs, by name: as it was told, and what that was made into."""
        self._checked: dict[str, tuple[Message, Feed]] = {}
        """What was found to be in order, and was not run yet."""
        self._options: dict[str, list[SegmentOptions]] = {}
        self._probe = Probe(self._lost) if self._is_gpu else None
        self._pool = ThreadPoolExecutor(_PAGES_AT_ONCE, "page")
        self._pages = Pages()

    def run(self, messages: Iterator[Message]) -> None:
        """Until it is told to stop, or the parent is gone."""
        exposition = Exposition(lambda: self._health.streams) if self._watched else None
        with HeldSignals() as signals, watching() if self._watched else nullcontext():
            if exposition is not None:
                self._add_pages(exposition)
            threading.Thread(target=self._take_orders, args=(messages,), name="orders", daemon=True).start()
            if self._is_gpu and not gpu_count():
                self._lost("CUDA finds no GPU")
            reports, _ = supervise(
                [], signals, self._limits, verbose=self._verbose, watch=self._watch, reread=self._carry_out,
                over=self._tell_of_end, is_worker=True,
            )  # fmt: skip
            self._channel.send("ended", reports=[self._content(one) for one in reports])

    # -------------------------------------------------------------------------------------------------------- orders

    def _take_orders(self, messages: Iterator[Message]) -> None:
        for message in messages:
            if message["kind"] == "request":
                self._pool.submit(self._answer, message)
            elif message["kind"] == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                self._orders.append(message)
                os.kill(os.getpid(), signal.SIGHUP)  # as a changed file would
        # the parent is gone: files are completed, and nobody can tell us to hurry
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(self._limits.stop + _EXTRA_SECONDS)
        os._exit(1)

    def _carry_out(self, _: Sequence[Feed]) -> Sequence[Feed] | None:
        """The feeds that should run now, if an order says so; each is answered with those that cannot."""
        wanted: list[Feed] | None = None
        while self._orders:
            order = self._orders.popleft()
            refused: dict[str, Message] = {}
            found: dict[str, tuple[Message, Feed]] = {}
            in_use = {*order["in_use"], *(place for _, feed in self._feeds.values() for place in feed.graph.outputs)}
            for content in order["feeds"]:
                try:
                    found[content["name"]] = content, self._prepared(content, in_use, order["is_new"])
                except Exception as error:  # libraries raise anything; the other feeds are not concerned
                    refused[content["name"]] = content_of_error(error)
            if order["kind"] == "check":
                self._checked = found
            else:
                self._feeds, self._checked = found, {}
                self._options = {name: feed_options(feed) for name, (_, feed) in found.items()}
                wanted = [feed for _, feed in found.values()]
                self._health.expect(stream for feed in wanted for stream in feed.graph.streams)
            self._networks.keep(feed for _, feed in (*self._feeds.values(), *self._checked.values()))
            self._channel.send("answer", id=order["id"], refused=refused)
        return wanted

    def _prepared(self, content: Message, in_use: set[str], is_new: bool) -> Feed:
        """The feed as it runs already, or with its network loaded and its outputs looked at."""
        known, feed = self._feeds.get(content["name"], (None, None))
        if feed is not None and known == content:
            return feed_of(content) if is_new else feed  # the very object is left as it is, with what was changed
        known, feed = self._checked.get(content["name"], (None, None))
        if feed is not None and known == content:
            return feed
        feed = feed_of(content)
        for options in feed_options(feed):
            if options.backend == "tensorrt":
                self._build(options)
        self._networks.load([feed])
        check_outputs([feed], self._verbose, in_use)
        return feed

    def _build(self, options: SegmentOptions) -> None:
        """Have an engine built here, where it runs; another worker that wants the same one waits for it."""
        from bmf_trt_seg.networks import engine_for

        engine = engine_for(options)
        if engine is not None and not engine.is_built:
            _log.info("building an engine for %s with %s, once; this may take minutes", engine.gpu, engine.library)
            engine.build()

    # ------------------------------------------------------------------------------------------------------- reports

    def _watch(self, reports: Sequence[Report]) -> None:
        if self._probe is not None and any(one.state.state == "restarting" for one in reports):
            self._probe.ask()
        if self._channel.has_room():
            self._channel.send("beat", reports=[self._content(one) for one in reports])

    def _tell_of_end(self, report: Report) -> None:
        with suppress(OSError):  # the parent is gone; the other feeds are to end in good order all the same
            self._channel.send("over", report=self._content(report))

    def _content(self, report: Report) -> Message:
        state = report.state
        segments = [part for name in state.streams if (part := metrics.stream(name, "segment")) is not None]
        return {
            "state": vars(state),
            "totals": vars(report.totals),
            "is_leaving": report.is_leaving,
            "camera": report.camera,
            "outputs": [[one.name, one.state] for one in report.outputs],
            "infer_seconds": sum(part.stage_seconds.get("infer", 0.0) for part in segments),
            "changed": self._changed(state.name),
        }

    def _changed(self, name: str) -> dict[str, Any]:
        """Options that somebody has changed since, whole, by their streams."""
        found = {}
        for given in self._options.get(name, ()):
            now = changes.stream(given.name)
            if now is not None and now.options != given:
                found[given.name] = now.options.model_dump(mode="json", exclude_unset=True)
        return found

    def _lost(self, reason: str) -> None:
        self._channel.send("lost", reason=reason)
        os.kill(os.getpid(), signal.SIGTERM)

    # --------------------------------------------------------------------------------------------------------- pages

    def _add_pages(self, exposition: Exposition) -> None:
        status = Status(lambda: self._health.streams, self._health.ready_seconds)

        def scrape(request: Request) -> Response:
            body, content_type = exposition.scrape()
            return Response(body, content_type)

        self._pages.page("/metrics", scrape)
        self._pages.page("/readyz", lambda _: Response.json(self._health.ready()[1]))
        add_watch_pages(self._pages, status)
        add_options_page(self._pages, status.names)

    def _answer(self, message: Message) -> None:
        try:
            answer = self._pages.answer(request_of(message["request"]))
        except Exception:
            _log.exception("web: %s failed", message["request"]["path"])
            answer = Response.line(500, "failed; the log says how")
        with suppress(OSError):
            self._channel.send("answer", id=message["id"], response=content_of_response(answer))


class Probe:
    """Finds out whether a GPU works still, after something has failed: CUDA's failures stay until the process ends."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """In a thread of its own, since a GPU that is lost may not answer."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="probe", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            self._lost(str(error).partition("\n")[0])


class _ToParent(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._channel.send("log", **content_of_log(record))


@contextmanager
def _logging_to(channel: Channel, level: int) -> Iterator[None]:
    handler = _ToParent(channel)
    _log.addHandler(handler)
    _log.propagate = False
    _log.setLevel(level)
    try:
        yield
    finally:
        _log.removeHandler(handler)


def main() -> None:
    """Talk over the descriptor that is the only argument."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    messages = channel.received()
    settings = next(messages, None)
    if settings is None:  # the parent is gone already
        return
    code = 1
    with _logging_to(channel, settings["level"]):
        try:
            Worker(channel, settings).run(messages)
            code = 0
        except SegError as error:
            with suppress(OSError):
                channel.send("lost", reason=str(error))
        except BrokenPipeError:  # the parent is gone
            code = 0
        except Exception:  # a bug of ours
            _log.exception("device '%s': a failure of its process", settings["device"])
        finally:
            sys.stderr.flush()
            os._exit(code)  # graphs that hang, or CUDA of a lost GPU, would not let it end


if __name__ == "__main__":
    main()
