"""The outputs of all feeds, looked at before any of them runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from bmf_trt_seg.errors import SegError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.graphs import place_of
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


def check_outputs(feeds: Iterable[Feed], verbose: bool = False, in_use: Collection[str] = ()) -> None:
    """`check_encoders`, and raise StreamError for what cannot be written to; folders are made.

    in_use: places of feeds that run, as `place_of` has them, which are left alone.
    """
    from bmf_trt_seg.live_sink import LiveSink

    for feed in feeds:
        for options in feed.graph.sinks:
            name = f"check of {options.name}"  # the feed's own is to be counted, and may run
            outputs = [output for output in options.outputs if place_of(output) not in in_use]
            tried = options.model_copy(update={"name": name, "outputs": outputs})
            with _naming(feed), captured_output(not verbose):
                if not outputs:
                    check_encoder(options)
                    continue
                try:
                    LiveSink(option=tried.model_dump(mode="json")).close()
                finally:
                    close_stream(name)


@contextmanager
def _naming(feed: Feed) -> Iterator[None]:
    try:
        yield
    except SegError as error:
        raise type(error)(f"feed '{feed.name}': {error}") from error
