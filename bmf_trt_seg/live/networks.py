"""The networks of all feeds, loaded once before any of them runs, and kept while feeds come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.errors import SegError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.networks import engine_for
from bmf_trt_seg.options import SegmentOptions, read_options
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.segmentation import PicturePipeline

__all__ = ["Networks", "feed_options", "loaded_networks"]

# a network is shared by streams that agree in these
_IDENTITY = {"model", "backend", "device", "threads", "batch_size", "input_shapes", "build"}


def feed_options(feed: Feed) -> list[SegmentOptions]:
    """The options of a feed's SegmentModules."""
    return [read_options(options, f"feed '{feed.name}', SegmentModule") for options in feed.graph.segments]


class Networks:
    """Keeps each network of feeds loaded, also while none of them runs. One thread at a time may use it."""

    def __init__(self) -> None:
        self._shared: dict[str, PicturePipeline] = {}
        self._lasting: dict[str, object] = {}
        """Of networks that feeds run each for itself."""

    def load(self, feeds: Iterable[Feed]) -> None:
        """Open what every feed's SegmentModules will open, so that what is wrong is raised here, naming the feed.

        An engine that is not built yet is passed over. If something is wrong, nothing more is kept than before.
        """
        before = self._kept()
        try:
            for feed in feeds:
                for options in feed_options(feed):
                    self._load(feed, options)
        except BaseException:
            self._free(self._kept() - before)
            raise

    def keep(self, feeds: Iterable[Feed]) -> None:
        """Let go of what none of these feeds has; those that run with it keep it until they end."""
        wanted = {_identity(options) for feed in feeds for options in feed_options(feed)}
        self._free(self._kept() - wanted)

    def close(self) -> None:
        self._free(self._kept())

    def _kept(self) -> set[str]:
        return {*self._shared, *self._lasting}

    def _load(self, feed: Feed, options: SegmentOptions) -> None:
        try:
            engine = engine_for(options) if options.model else None
            if engine is not None and not engine.is_built:
                return
            opened = _opened(options.model_copy(update={"name": ""} if options.shared else {}))
        except SegError as error:
            raise type(error)(f"feed '{feed.name}': {error}") from error
        identity = _identity(options)
        if options.shared and options.model and identity not in self._shared:
            self._shared[identity] = opened
            return
        network = opened.network
        lasting = network.lasting if isinstance(network, Backend) else None
        opened.close()
        if lasting is not None:
            self._lasting[identity] = lasting

    def _free(self, identities: Iterable[str]) -> None:
        for identity in identities:
            self._lasting.pop(identity, None)
            if identity in self._shared:
                self._shared.pop(identity).close()


@contextmanager
def loaded_networks(feeds: Iterable[Feed]) -> Iterator[Networks]:
    """`Networks` with those of these feeds inside."""
    networks = Networks()
    networks.load(feeds)
    try:
        yield networks
    finally:
        networks.close()


def _identity(options: SegmentOptions) -> str:
    return options.model_dump_json(include=_IDENTITY)


def _opened(options: SegmentOptions) -> PicturePipeline:
    """A pipeline that says nothing of itself and is not counted: the feed's own will be."""
    log = logging.getLogger(open_pipeline.__module__)
    log.addFilter(_is_warning)
    try:
        return open_pipeline(options, StreamMetrics(options.name))
    finally:
        log.removeFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
