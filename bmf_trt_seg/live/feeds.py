"""A feeds file: what it may say, its defaults put into each feed, and every mistake in it as one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from bmf_trt_seg.backends import BACKENDS
from bmf_trt_seg.errors import ConfigError, SegError
from bmf_trt_seg.graph import load_graph, load_object
from bmf_trt_seg.live.graphs import LiveGraph, feed_graph, own_graph
from bmf_trt_seg.live_outputs.options import LiveSinkOptions
from bmf_trt_seg.options import LiveOptions, SegmentOptions
from bmf_trt_seg.sources.urls import is_network, masked
from bmf_trt_seg.validation import Strict, validated

__all__ = ["CameraFeed", "Feed", "FeedsFile", "FeedsReader", "GraphFeed", "Restarts", "read_feeds"]

Name = Annotated[
    str,
    pydantic.Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        examples=["1 to 64 letters, digits, '_', '-' and '.', the first a letter or a digit"],
    ),
]
_MOST_IN_A_BATCH = 8
_OF_ONE_FEED = {"name", "url", "graph", "set"}  # what no two feeds have in common
_MERGED = ("segment", "encoder")  # objects whose members a feed may give one by one


class _Restarted(Strict):
    restart: bool = pydantic.Field(True, description="Whether it is started again after it has failed.")
    restart_backoff: float = pydantic.Field(
        1.0, gt=0, le=3600, description="Seconds before the first new start; then doubled, until it has run well."
    )
    restart_backoff_max: float = pydantic.Field(60.0, gt=0, le=86400, description="Most seconds between two starts.")


class CameraFeed(LiveOptions, _Restarted):
    """A feed from LiveSource through SegmentModule to LiveSink; every option of LiveSource is one of it, too."""

    name: Name = pydantic.Field(description="Name in logs, metrics and outputs.")
    segment: dict[str, Any] = pydantic.Field(
        {}, description="Options of SegmentModule; shared is true but with TensorRT."
    )
    outputs: list[dict[str, Any]] = pydantic.Field([], description="Outputs of LiveSink.")
    encoder: dict[str, Any] = pydantic.Field({}, description="Options of LiveSink but its outputs.")


class GraphFeed(_Restarted):
    """A feed that has a graph file of its own."""

    name: Name = pydantic.Field(description="Name in logs, and of the modules in it that have none.")
    graph: str = pydantic.Field(min_length=1, description="Graph file; a relative name is looked up beside this file.")
    set: dict[str, str] = pydantic.Field({}, description="Values of the variables in it.")


class FeedsFile(Strict):
    """The whole file."""

    defaults: dict[str, Any] = pydantic.Field({}, description="What feeds have that do not say otherwise.")
    feeds: list[dict[str, Any]] = pydantic.Field(min_length=1, description="The feeds.")


@dataclass(frozen=True)
class Restarts:
    """Whether and when a feed is started again; times in seconds."""

    allowed: bool = True
    backoff: float = 1.0
    backoff_max: float = 60.0


@dataclass(frozen=True)
class Feed:
    """A feed that may run: its checked graph, and when that is started again."""

    name: str
    graph: LiveGraph
    restarts: Restarts = Restarts()


class FeedsReader:
    """Reads a feeds file, and reads it again after it was changed."""

    def __init__(self, path: Path, variables: Mapping[str, str] | None = None) -> None:
        """variables: put in as those of a graph are."""
        self._path, self._variables = path, variables or {}
        self._batch_size: int | None = None

    def read(self) -> list[Feed]:
        """The feeds that the file has now.

        The batch size of feeds that say none stays what it was the first time: with another one, a feed that is added
        would not share the network of those that run. Raises StreamError if the file cannot be read; ConfigError with
        all that is wrong, naming file, feed and field.
        """
        subject = f"feeds file '{self._path}'"
        content = validated(FeedsFile, load_object(self._path, self._variables, subject, "feeds"), subject)
        _check_defaults(content.defaults, f"{subject}, defaults")
        entries = [_merged(entry, content.defaults) for entry in content.feeds]
        cameras = sum("graph" not in entry for entry in entries)
        batch_size = self._batch_size or min(_MOST_IN_A_BATCH, max(1, cameras))
        feeds = _checked_feeds(entries, subject, self._path.parent, batch_size)
        self._batch_size = batch_size
        return feeds


def read_feeds(path: Path, variables: Mapping[str, str] | None = None) -> list[Feed]:
    """The feeds of a file; see `FeedsReader`."""
    return FeedsReader(path, variables).read()


def _checked_feeds(entries: list[dict[str, Any]], subject: str, folder: Path, batch_size: int) -> list[Feed]:
    feeds: list[Feed] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name")
        own = f"{subject}, feed '{name}'" if isinstance(name, str) else f"{subject}, feed {number}"
        try:
            feeds.append(_feed(entry, own, folder, batch_size))
        except ConfigError as error:
            problems.append(str(error))
    names = [str(entry.get("name")) for entry in entries]
    problems += [f"{subject}: {count} feeds have the name '{name}'" for name, count in _repeated(names)]
    streams = [(stream, feed.name) for feed in feeds for stream in {feed.name, *feed.graph.streams}]
    for stream, _ in _repeated(stream for stream, _ in dict.fromkeys(streams)):
        owners = ", ".join(f"'{owner}'" for one, owner in dict.fromkeys(streams) if one == stream)
        problems.append(f"{subject}: the name '{stream}' is counted under by the feeds {owners}; give each its own")
    places = [(place, feed.name) for feed in feeds for place in feed.graph.outputs]
    for place, _ in _repeated(place for place, _ in places):
        owners = ", ".join(f"'{owner}'" for one, owner in places if one == place)
        problems.append(f"{subject}: the feeds {owners} have the output '{masked(place)}'; give each its own")
    if problems:
        raise ConfigError("; ".join(problems))
    return feeds


def _check_defaults(defaults: dict[str, Any], subject: str) -> None:
    common = sorted(_OF_ONE_FEED & set(defaults))
    if common:
        raise ConfigError(f"{subject}: '{common[0]}' is each feed's own and has no default")
    validated(CameraFeed, {"name": "any", "url": "any", **defaults}, subject)


def _merged(entry: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A feed with the defaults it does not overrule, and `{name}` in its strings replaced."""
    if "graph" in entry:
        return {**{key: value for key, value in defaults.items() if key in GraphFeed.model_fields}, **entry}
    merged = {**defaults, **entry}
    for key in _MERGED:
        if isinstance(defaults.get(key), dict) and isinstance(entry.get(key), dict):
            merged[key] = {**defaults[key], **entry[key]}
    name = entry.get("name")
    return merged if not isinstance(name, str) else {key: _named(value, name) for key, value in merged.items()}


def _named(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _named(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, name) for item in value]
    return value.replace("{name}", name) if isinstance(value, str) else value


def _feed(entry: dict[str, Any], subject: str, folder: Path, batch_size: int) -> Feed:
    if "graph" in entry:
        by_graph = validated(GraphFeed, entry, subject)
        try:
            content = load_graph(folder / by_graph.graph, by_graph.set)
        except SegError as error:
            raise ConfigError(f"{subject}: {error}") from error
        return Feed(by_graph.name, _checked(own_graph(content, by_graph.name), subject), _restarts(by_graph))
    camera = validated(CameraFeed, entry, subject)
    defaults = {"name": camera.name, **_batches(camera.segment, batch_size)}
    segment = validated(SegmentOptions, {**defaults, **camera.segment}, f"{subject}, segment")
    if segment.name != camera.name:
        raise ConfigError(f"{subject}, segment: option 'name': got '{segment.name}'; it is the feed's")
    wrong = sorted({"name", "outputs"} & set(camera.encoder))
    if wrong:
        raise ConfigError(f"{subject}, encoder: '{wrong[0]}' is one of the feed itself")
    sink = {"name": camera.name, "outputs": camera.outputs}
    validated(LiveSinkOptions, sink, subject)
    options = validated(LiveSinkOptions, {**sink, **camera.encoder}, f"{subject}, encoder")
    if not is_network(camera.url) and not Path(camera.url.removeprefix("file://")).is_file():
        # of an address with a mistake in it, nothing but what comes behind the password
        _, login, rest = camera.url.rpartition("@")
        raise ConfigError(f"{subject}: option 'url': there is no file '{login and '***@'}{rest}', and it is no address")
    source = {name: value for name, value in entry.items() if name in LiveOptions.model_fields}
    return Feed(camera.name, _checked(feed_graph(source, segment, options), subject), _restarts(camera))


def _batches(segment: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """How frames of a feed get into batches, if its options do not say.

    In common ones on a CPU. TensorRT gets those of each feed by themselves, at once: they stay on the GPU then until
    they are drawn, while common batches go through host memory, where the steps around the network take longer than it.
    """
    backend, suffix = segment.get("backend", "auto"), Path(str(segment.get("model"))).suffix.lower()
    on_gpu = backend == "tensorrt" or (backend == "auto" and suffix in BACKENDS["tensorrt"].suffixes)
    if segment.get("shared", not on_gpu):
        found: dict[str, Any] = {"shared": True, "batch_size": batch_size}  # room for a frame of each feed
    else:
        found = {"shared": False, "batch_size": 1, "max_latency_ms": 1}
    if "input_shapes" in segment:  # which has the size of the batch
        del found["batch_size"]
    return found


def _checked(graph: LiveGraph, subject: str) -> LiveGraph:
    if graph.problems:
        raise ConfigError(f"{subject}: " + "; ".join(graph.problems))
    return graph


def _restarts(feed: _Restarted) -> Restarts:
    return Restarts(feed.restart, feed.restart_backoff, feed.restart_backoff_max)


def _repeated(names: Iterable[str]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in Counter(names).items() if count > 1]
