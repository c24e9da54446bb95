"""Options of a stream that runs: wanted by others, in any thread, and taken over by its module between two frames."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import Future
from typing import Any

from bmf_trt_seg.errors import ConfigError, EngineError, SegError, StreamError
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import SegmentOptions, changeable_options
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.segmentation import PicturePipeline
from bmf_trt_seg.validation import validated

__all__ = ["Changes", "close_stream", "open_stream", "stream"]

_log = logging.getLogger(__name__)
_AT_ONCE = {name for name, when in changeable_options().items() if when == "at-once"}
_RELOADED = changeable_options().keys() - _AT_ONCE
_OF_A_NETWORK = _RELOADED | {"interval", "smoothing", "threshold"}  # of no use to records
_USUAL_SIZE_WH = 1280, 720


class Changes:
    """The options of one stream, and the pipeline that its module is to use next.

    What is wanted is checked whole, and a pipeline is made beside the one that works: of the same open network, or of
    another one, which a thread of its own loads. The module asks before each frame if one is `ready`, and takes it.
    """

    def __init__(self, options: SegmentOptions, pipeline: PicturePipeline, metrics: StreamMetrics) -> None:
        """`pipeline` is what the module works with now, made by these options; `close` closes it as well."""
        self._metrics = metrics
        self._lock = threading.Lock()  # for everything below
        self._options = options
        self._latest: PicturePipeline | None = pipeline
        self._current: PicturePipeline | None = pipeline
        self._next: PicturePipeline | None = None
        self._told = options
        """The options of `_current`."""
        self._loading: Future[None] | None = None
        self._loading_model = ""
        self._last_error = ""
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    @property
    def options(self) -> SegmentOptions:
        """Those that were accepted last; after the end, too."""
        return self._options

    @property
    def is_open(self) -> bool:
        return not self._is_closed

    def state(self) -> dict[str, Any]:
        """The options that may change, the model that is being loaded, why the last one was refused; for JSON."""
        with self._lock:
            return {
                "options": self._options.model_dump(mode="json", include=set(changeable_options())),
                "loading": self._loading_model or None,
                "last_error": self._last_error,
            }

    # -------------------------------------------------------------------------------------------------- in any thread

    def change(self, values: Any) -> Future[None]:
        """Have some options changed: an object as a graph has it, of those that are to be different.

        The result is done when they are accepted, which is at once unless a network has to be loaded; they hold from
        the next frame on. Raises ConfigError for what is wrong, StreamError if the stream is over; or the result has
        the error, if it shows while the network is loaded. Then nothing was changed.
        """
        with self._lock, _Counted(self._metrics):
            if not isinstance(values, dict) or not values:
                raise ConfigError('expected an object of options, such as {"alpha": 0.3}')
            return self._accept(self._with(values))

    def change_to(self, options: SegmentOptions) -> Future[None]:
        """`change` for all options at once."""
        with self._lock, _Counted(self._metrics):
            return self._accept(options)

    def _with(self, values: dict[str, Any]) -> SegmentOptions:
        """The options accepted last and these; a message begins with what is wrong."""
        given = self._options.model_dump(mode="json", exclude_unset=True)
        try:
            return validated(SegmentOptions, {**given, **values}, "options")
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix("options: ")) from None

    def _accept(self, options: SegmentOptions) -> Future[None]:
        if self._is_closed:
            raise StreamError(f"stream '{self._metrics.name}' does not run")
        wanted = _differences(self._options, options)
        fixed = [name for name in wanted if name not in changeable_options()]
        if fixed:
            raise ConfigError(
                f"option '{fixed[0]}' cannot change while the graph runs; these can: " + ", ".join(changeable_options())
            )
        useless = [name for name in wanted if options.replay and name in _OF_A_NETWORK]
        if useless:
            raise ConfigError(f"option '{useless[0]}' is for a network, and the masks come from records")
        if _RELOADED & wanted.keys():
            return self._load(options)
        if wanted:
            assert self._latest is not None
            self._publish(self._latest.changed(options), options)
        return _done()

    def _load(self, options: SegmentOptions) -> Future[None]:
        """Open the network of these options beside the other one."""
        if self._loading is not None:
            raise ConfigError(f"the model '{self._loading_model}' is being loaded; wait for that, then ask again")
        self._loading, self._loading_model = Future(), options.model
        thread = threading.Thread(
            target=self._loaded, args=(options, self._options, self._loading), name=f"load {self._metrics.name}",
            daemon=True,
        )  # fmt: skip
        self._start(thread)
        return self._loading

    def _loaded(self, options: SegmentOptions, before: SegmentOptions, result: Future[None]) -> None:
        """The thread that opens a network. before: the options when it was asked for."""
        pipeline: PicturePipeline | None = None
        failure: SegError | None = None
        try:
            pipeline = open_pipeline(options, self._metrics, cancelled=lambda: self._is_closed)
            with self._lock:
                if self._is_closed:
                    raise StreamError(f"stream '{self._metrics.name}' ended while '{options.model}' was loaded")
                since = _differences(before, self._options)
                if since:  # what was changed meanwhile holds for the new one, too
                    options = options.model_copy(update=since)
                    pipeline = pipeline.changed(options)
                self._publish(pipeline, options)
                self._last_error = ""
        except BaseException as error:  # libraries raise anything, and somebody waits
            failure = error if isinstance(error, SegError) else EngineError(f"{type(error).__name__}: {error}")
            if pipeline is not None:
                pipeline.close()
            with self._lock:
                self._metrics.changes_refused += 1
                self._last_error = str(failure)
            _log.warning("stream '%s': not changed: %s", self._metrics.name, failure)
        with self._lock:
            self._loading, self._loading_model = None, ""
        if failure is None:
            result.set_result(None)
        else:
            result.set_exception(failure)

    def _publish(self, pipeline: PicturePipeline, options: SegmentOptions) -> None:
        """Let the module have a pipeline. ConfigError if what comes behind could not take its frames."""
        current = self._current
        assert current is not None, "it is open"
        before, after = current.size(*_USUAL_SIZE_WH), pipeline.size(*_USUAL_SIZE_WH)
        if before != after:
            raise ConfigError(
                f"frames would leave in another size, as {after[0]}x{after[1]} instead of {before[0]}x{before[1]} if "
                f"they come in {_USUAL_SIZE_WH[0]}x{_USUAL_SIZE_WH[1]}; that cannot change while the graph runs, as "
                "with style 'sidebyside'"
            )
        if pipeline.device != current.device:
            where, there = (one.device or "host memory" for one in (pipeline, current))
            raise ConfigError(
                f"that network takes frames in {where}, this graph has them in {there}, which cannot change while it "
                "runs"
            )
        unused, self._next = self._next, pipeline
        self._latest, self._options = pipeline, options
        if unused is not None and unused.network not in (pipeline.network, current.network):
            self._start(self._closer(unused))

    # -------------------------------------------------------------------------------------------------- by the module

    @property
    def ready(self) -> bool:
        """Whether there is a pipeline to `take`."""
        return self._next is not None

    def take(self, number: int) -> PicturePipeline:
        """The pipeline for the frame of this number and those behind it, once, while `ready`."""
        with self._lock:
            taken = self._next
            assert taken is not None
            self._next, self._current = None, taken
            changed, self._told = _differences(self._told, self._options), self._options
            self._metrics.changes += 1
        taken.begin(number)
        values = ", ".join(f"{name} {json.dumps(value, default=str)}" for name, value in changed.items())
        _log.info("stream '%s': from frame %d on: %s", self._metrics.name, number, values or "as before")
        return taken

    def retire(self, pipeline: PicturePipeline) -> None:
        """Free the network of a pipeline that nothing is on its way through any more, without waiting for that."""
        with self._lock:
            self._start(self._closer(pipeline))

    def close(self) -> None:
        """Nothing can be changed any more: wait for what is being loaded, and free everything."""
        with self._lock:
            self._is_closed = True
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join()
        for pipeline in filter(None, (self._next, self._current)):
            pipeline.close()
        self._latest = self._current = self._next = None  # the options are still asked for, and what they made is large

    # ------------------------------------------------------------------------------------------------------- threads

    def _closer(self, pipeline: PicturePipeline) -> threading.Thread:
        return threading.Thread(target=pipeline.close, name=f"free {self._metrics.name}", daemon=True)

    def _start(self, thread: threading.Thread) -> None:
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()


class _Counted:
    """Counts what is refused inside."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._metrics.changes_refused += 1


def _differences(before: SegmentOptions, after: SegmentOptions) -> dict[str, Any]:
    """The options that are not what they were, with their new values."""
    return {
        name: getattr(after, name)
        for name in SegmentOptions.model_fields
        if getattr(after, name) != getattr(before, name)
    }


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


_streams: dict[str, Changes] = {}


def open_stream(options: SegmentOptions, pipeline: PicturePipeline, metrics: StreamMetrics) -> Changes:
    """The changes of a new stream of that name, in the place of an older one's."""
    _streams[options.name] = opened = Changes(options, pipeline, metrics)
    return opened


def stream(name: str) -> Changes | None:
    """Those of the stream that was opened last under this name."""
    return _streams.get(name)


def close_stream(name: str) -> None:
    """Forget a stream that will not come again."""
    _streams.pop(name, None)
