"""One network for all streams of a process: their pictures go into common batches."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.backends.fair_queue import Call, FairQueue, Lane, Part
from bmf_trt_seg.errors import EngineError
from bmf_trt_seg.spec import ModelSpec

__all__ = ["SharedBackend", "SharedCounts", "shared_counts"]

_Key = tuple[object, ...]

_REGISTRY = threading.Lock()  # for the next line, and who joins or leaves; taken before a network's own, never after
_NETWORKS: dict[_Key, _Network] = {}


@dataclass(frozen=True)
class SharedCounts:
    """What a shared network has done so far, and what waits for it."""

    model: str
    """Name of its file."""
    batch_size: int
    """The largest batch."""
    batches: int
    """Runs of the network, the failed ones too."""
    failed: int
    """Runs that failed."""
    pictures: int
    """Pictures in all runs; one whose batch failed counts again when it is tried alone."""
    sizes: dict[int, int]
    """How many runs had how many pictures."""
    waiting: tuple[tuple[str, int], ...]
    """Name and waiting pictures of each stream, in the order in which they were opened."""


def shared_counts() -> list[SharedCounts]:
    """The counts of every network that is shared at the moment."""
    with _REGISTRY:
        networks = list(_NETWORKS.values())
    return [network.counts() for network in networks]


class SharedBackend(Backend):
    """One stream's face of a network that all streams with the same one share: same file, description and options.

    The network is loaded with the first stream that is opened and freed with the last that is closed. A thread of its
    own opens, runs and closes it, and makes batches of what waits, fairly (see `FairQueue`). `infer` gives any number
    of pictures and waits for their results; several threads may call it. A run that fails is done again for the
    pictures of each caller alone, so that only the one whose picture is at fault gets the error.

    Pictures go through host memory: `stream` is None for backends of a GPU, too, because a batch in common has no
    stream's own CUDA stream to wait for.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        *,
        backend: type[Backend],
        name: str = "",
        max_latency_ms: int = 0,
        device: str = "auto",
        threads: int = 1,
        batch_size: int = 1,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """backend: what runs the network. name: the stream's, in messages and counts; "" if it only keeps it loaded.

        max_latency_ms: longest wait of a picture for its batch to fill; 0 to take what is there. batch_size: the
        largest batch of all streams together, which those of other sizes do not share; `self.batch_size` is 1.
        """
        super().__init__(model, spec, device=device, threads=threads, input_shapes=input_shapes)
        self.name = name
        self._inner = backend, batch_size
        self._max_latency_seconds = max_latency_ms / 1000
        self._opening = threading.Lock()

    def open(self) -> Self:
        with self._opening:
            return super().open()

    def close(self) -> None:
        """Leave the network; what still waits here fails with an EngineError. The last one to leave frees it."""
        with self._opening:
            super().close()

    def describe(self) -> str:
        return self._network.describe()

    def counts(self) -> SharedCounts:
        """The counts of the open network."""
        return self._network.counts()

    def _open(self) -> None:
        backend, batch_size = self._inner
        key = (*_identity(self.model), backend, self.device, self.threads, batch_size, self.spec.model_dump_json())
        key = (*key, tuple(sorted((name, tuple(shape)) for name, shape in self.input_shapes.items())))
        with _REGISTRY:
            network = _NETWORKS.get(key)
            if network is None:
                inner = backend(
                    self.model,
                    self.spec,
                    device=self.device,
                    threads=self.threads,
                    batch_size=batch_size,
                    input_shapes=self.input_shapes,
                )
                network = _NETWORKS[key] = _Network(key, inner, batch_size)
            self._network, self._lane = network, network.join(self.name)
        try:
            network.opened.result()
        except BaseException:
            network.leave(self._lane)
            raise

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        self._check_batch(batch)
        network, lane = self._network, self._lane
        call = network.put(lane, batch, self._max_latency_seconds)
        try:
            return call.result.result()
        finally:
            network.withdraw(lane, call)  # also if this thread was interrupted

    def _close(self) -> None:
        self._network.leave(self._lane)

    def _check_batch(self, batch: npt.NDArray[np.generic]) -> None:
        """EngineError for pictures that could not be in one batch with those of others."""
        wanted = self.spec.input
        size = (wanted.height, wanted.width)
        expected = (3, *size) if wanted.layout == "nchw" else (*size, 3)
        if len(batch) == 0 or batch.shape[1:] != expected or str(batch.dtype) != wanted.dtype:
            raise EngineError(
                f"stream '{self.name}' failed on '{self.model.name}' with a batch of {len(batch)}: it is {batch.dtype} "
                f"{'x'.join(map(str, batch.shape))}, expected {wanted.dtype} Nx{'x'.join(map(str, expected))}"
            )


class _Network:
    """An open backend, the queue before it, and the thread that runs it."""

    def __init__(self, key: _Key, inner: Backend, batch_size: int) -> None:
        self.opened: Future[None] = Future()
        self._key = key
        self._inner = inner
        self._queue = FairQueue(batch_size)
        self._changed = threading.Condition()  # for everything below, and the queue
        self._is_ending = False
        self._failed = 0
        self._sizes: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._work, name=f"shared {inner.model.name}", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------------------------------- in the threads of streams

    def join(self, name: str) -> Lane:
        with self._changed:
            return self._queue.join(name)

    def leave(self, lane: Lane) -> None:
        """Take a stream out, its calls failing; with the last one, wait until the network is free."""
        with _REGISTRY, self._changed:
            for call in self._queue.leave(lane):
                call.result.set_exception(self._closed(lane))
            is_last = not self._queue.lanes
            if is_last:
                self._is_ending = True
                if _NETWORKS.get(self._key) is self:
                    del _NETWORKS[self._key]  # whoever opens this network from now on gets a new one
            self._changed.notify_all()  # what a batch was held open for may be gone
        if is_last:
            self._thread.join()

    def put(self, lane: Lane, pictures: npt.NDArray[np.generic], max_latency_seconds: float) -> Call:
        with self._changed:
            if lane not in self._queue.lanes:
                raise self._closed(lane)
            call = self._queue.put(lane, pictures, time.monotonic() + max_latency_seconds)
            self._changed.notify_all()
            return call

    def withdraw(self, lane: Lane, call: Call) -> None:
        with self._changed:
            self._queue.withdraw(lane, call)

    def describe(self) -> str:
        with self._changed:
            # one that was opened again under its name is the same stream
            streams, size = len({lane.name for lane in self._queue.lanes if lane.name}), self._queue.batch_size
        by = f"{streams} stream{'s' if streams > 1 else ''}"
        return f"{self._inner.describe()}, shared by {by} in batches of up to {size}"

    def counts(self) -> SharedCounts:
        with self._changed:
            return SharedCounts(
                model=self._inner.model.name,
                batch_size=self._queue.batch_size,
                batches=self._sizes.total(),
                failed=self._failed,
                pictures=sum(size * times for size, times in self._sizes.items()),
                sizes=dict(sorted(self._sizes.items())),
                waiting=tuple((lane.name, lane.waiting) for lane in self._queue.lanes if lane.name),
            )

    def _closed(self, lane: Lane) -> EngineError:
        return EngineError(
            f"network '{self._inner.model.name}' was closed by stream '{lane.name}' while pictures of it waited"
        )

    # ------------------------------------------------------------------------------------ in the thread of the network

    def _work(self) -> None:
        try:
            self._inner.open()
        except BaseException as error:  # it is for those who wait
            self.opened.set_exception(error)
            return
        with self._changed:  # a run of fixed size costs the same when it is full
            fixed = self._inner.fixed_batch or 1
            self._queue.batch_size = -(-self._queue.batch_size // fixed) * fixed
        self.opened.set_result(None)
        try:
            while parts := self._next_batch():
                self._run(parts)
        finally:
            self._inner.close()

    def _next_batch(self) -> list[Part]:
        """Wait for pictures; none if the last stream is gone."""
        with self._changed:
            while not self._is_ending:
                seconds = self._queue.seconds_left(time.monotonic())
                if seconds == 0:
                    return self._queue.take()
                self._changed.wait(seconds)
            return []

    def _run(self, parts: list[Part]) -> None:
        """Run the network on a batch and hand out its results, or its failure."""
        try:
            scores = self._infer(parts)
        except BaseException as error:  # nothing may end this thread: others wait for it
            with self._changed:
                self._failed += 1
                if len(parts) == 1:
                    self._fail(parts[0], error)
            if len(parts) > 1:
                for part in parts:
                    if not part.call.result.done():
                        self._run([part])
            return
        with self._changed:
            start = 0
            for part in parts:
                stop = start + part.stop - part.start
                if not part.call.result.done():
                    part.call.add(scores[start:stop])
                start = stop

    def _infer(self, parts: list[Part]) -> npt.NDArray[np.generic]:
        pictures = [part.pictures for part in parts]
        batch = pictures[0] if len(pictures) == 1 else np.concatenate(pictures)
        with self._changed:
            self._sizes[len(batch)] += 1
        scores = self._inner.infer(batch)
        if scores.shape[:1] != (len(batch),):
            raise EngineError(
                f"network '{self._inner.model.name}' gave a result of shape {list(scores.shape)} for a batch of "
                f"{len(batch)}; to be shared, it has to give one for each picture"
            )
        return scores

    def _fail(self, part: Part, error: BaseException) -> None:
        self._queue.withdraw(part.lane, part.call)
        if not part.call.result.done():
            part.call.result.set_exception(error)


def _identity(model: Path) -> _Key:
    """What tells a file from others, and from what lay there before; of a missing one, its name."""
    path = model.resolve()
    try:
        found = path.stat()
    except OSError:
        return (path,)
    return path, found.st_mtime_ns, found.st_size
