"""The outputs of all feeds, looked at before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bmf_trt_seg.errors import SegError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live_outputs.encoder import check_encoder
from bmf_trt_seg.metrics import close_stream
from bmf_trt_seg.native_output import captured_output

__all__ = ["check_encoders", "check_outputs"]


def check_encoders(feeds: Iterable[Feed], verbose: bool = False) -> None:
    """Raise ConfigError, naming the feed, if this machine cannot encode as it says."""
    for feed in feeds:
        for options in feed.graph.sinks:
            with _naming(feed), captured_output(not verbose):
                check_encoder(options)


def check_outputs(feeds: Iterable[Feed], verbose: bool = False) -> None:
    """`check_encoders`, and raise StreamError for what cannot be written to; folders are made."""
    from bmf_trt_seg.live_sink import LiveSink

    for feed in feeds:
        for options in feed.graph.sinks:
            with _naming(feed), captured_output(not verbose):
                try:
                    LiveSink(option=options.model_dump(mode="json")).close()
                finally:
                    close_stream(options.name)  # the feed's own is to be counted


@contextmanager
def _naming(feed: Feed) -> Iterator[None]:
    try:
        yield
    except SegError as error:
        raise type(error)(f"feed '{feed.name}': {error}") from error
