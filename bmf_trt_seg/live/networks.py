"""The networks of all feeds, loaded once before any of them runs, and kept while feeds come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from bmf_trt_seg.errors import SegError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.networks import engine_for
from bmf_trt_seg.options import SegmentOptions, read_options
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.segmentation import PicturePipeline

__all__ = ["feed_options", "loaded_networks"]

# a network is shared by streams that agree in these
_IDENTITY = {"model", "backend", "device", "threads", "batch_size", "input_shapes", "build"}


def feed_options(feed: Feed) -> list[SegmentOptions]:
    """The options of a feed's SegmentModules."""
    return [read_options(options, f"feed '{feed.name}', SegmentModule") for options in feed.graph.segments]


@contextmanager
def loaded_networks(feeds: Iterable[Feed]) -> Iterator[None]:
    """Open what every feed's SegmentModules will open, so that what is wrong with it is raised here, naming the feed.

    Inside, each network that feeds share stays loaded, also while none of them runs. An engine that is not built yet
    is passed over.
    """
    kept: set[str] = set()
    with ExitStack() as stack:
        for feed in feeds:
            for options in feed_options(feed):
                try:
                    engine = engine_for(options) if options.model else None
                    if engine is not None and not engine.is_built:
                        continue
                    opened = _opened(options)
                except SegError as error:
                    raise type(error)(f"feed '{feed.name}': {error}") from error
                identity = options.model_dump_json(include=_IDENTITY)
                if options.shared and options.model and identity not in kept:
                    kept.add(identity)
                    stack.callback(opened.close)
                else:
                    opened.close()
        yield


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
