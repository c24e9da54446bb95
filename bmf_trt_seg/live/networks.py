"""The networks of all feeds, loaded once before any of them runs, and kept while feeds come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
    """Keeps each network that feeds share loaded, also while none of them runs. One thread at a time may use it."""

    def __init__(self) -> None:
        self._kept: dict[str, PicturePipeline] = {}

    def load(self, feeds: Iterable[Feed]) -> None:
        """Open what every feed's SegmentModules will open, so that what is wrong is raised here, naming the feed.

        An engine that is not built yet is passed over. If something is wrong, nothing more is kept than before.
        """
        before = set(self._kept)
        try:
            for feed in feeds:
                for options in feed_options(feed):
                    self._load(feed, options)
        except BaseException:
            self._free(self._kept.keys() - before)
            raise

    def keep(self, feeds: Iterable[Feed]) -> None:
        """Let go of what none of these feeds shares; those that run with it keep it until they end."""
        wanted = {_identity(options) for feed in feeds for options in feed_options(feed)}
        self._free(self._kept.keys() - wanted)

    def close(self) -> None:
        self._free(set(self._kept))

    def _load(self, feed: Feed, options: SegmentOptions) -> None:
        try:
            engine = engine_for(options) if options.model else None
            if engine is not None and not engine.is_built:
                return
            opened = _opened(options)
        except SegError as error:
            raise type(error)(f"feed '{feed.name}': {error}") from error
        identity = _identity(options)
        if options.shared and options.model and identity not in self._kept:
            self._kept[identity] = opened
        else:
            opened.close()

    def _free(self, identities: Iterable[str]) -> None:
        for identity in identities:
            self._kept.pop(identity).close()


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
