"""Streams that share a network: a backend that stops at every run shows what is in each batch.

No test sleeps or measures time; each waits for what has to come, and fails after TIMEOUT seconds without it.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from factories import complaint, make_spec

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.backends.fair_queue import FairQueue
from bmf_trt_seg.backends.shared import SharedBackend, shared_counts
from bmf_trt_seg.errors import EngineError, ModelError

TIMEOUT = 30
SPEC = make_spec(input={"height": 1, "width": 1})
BAD = 666


def pictures(*numbers):
    """Pictures of one pixel that carry a number."""
    return np.array(numbers, np.float32).repeat(3).reshape(-1, 3, 1, 1)


def numbers(batch):
    return batch[:, 0, 0, 0].astype(int).tolist()


class Stepped(Backend):
    """Doubles its input. Each run that begins is put into `begun`, and goes on when `go` is released."""

    made: list[Stepped]
    begun: queue.Queue[list[int]]
    go: threading.Semaphore
    steps = False
    fault: BaseException | None = None
    opening_fault: BaseException | None = None
    fixed: int | None = None

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.notes, self.idents = [], set()
        self.made.append(self)

    def describe(self):
        return "a test"

    def _note(self, text):
        self.notes.append(text)
        self.idents.add(threading.get_ident())

    def _open(self):
        self._note("open")
        if self.opening_fault is not None:
            raise self.opening_fault
        self.fixed_batch = self.fixed

    def _run(self, batch):
        self._note(len(batch))
        if self.steps:
            self.begun.put(numbers(batch))
            assert self.go.acquire(timeout=TIMEOUT)
        if self.fault is not None and BAD in numbers(batch):
            raise self.fault
        return batch * 2

    def _close(self):
        self._note("close")


@pytest.fixture
def backend():
    """A class of its own for every test."""

    class Own(Stepped):
        made, begun, go = [], queue.Queue(), threading.Semaphore(0)

    return Own


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"a network")
    return path


@pytest.fixture
def face(model, backend):
    """face(name): an open stream; all are closed in the end, and then nothing may be left."""
    opened = []

    def make(name="", path=model, spec=SPEC, **options):
        opened.append(SharedBackend(path, spec, backend=backend, name=name, **options).open())
        return opened[-1]

    yield make
    backend.steps = False
    backend.go.release(10_000)
    for one in opened:
        one.close()
    assert shared_counts() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shared ")]


@pytest.fixture
def arrived(monkeypatch):
    """Released for every call that has come to a queue."""
    arrived, put = threading.Semaphore(0), FairQueue.put

    def counted(*args):
        call = put(*args)
        arrived.release()
        return call

    monkeypatch.setattr(FairQueue, "put", counted)
    return arrived


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def start(backend, arrived, pool):
    """start(stream, *numbers): its pictures are in the queue when this returns; the future of their results."""

    def start(stream, *given):
        done = pool.submit(lambda: numbers(stream.infer(pictures(*given))))
        assert arrived.acquire(timeout=TIMEOUT)
        return done

    return start


def next_batch(backend):
    return backend.begun.get(timeout=TIMEOUT)


# ---- who shares


def test_streams_of_a_network_share_it(face, backend, model, tmp_path, monkeypatch):
    (tmp_path / "link.onnx").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    faces = [face("a"), face("b", path=Path("net.onnx")), face("c", path=tmp_path / "link.onnx", max_latency_ms=9)]
    assert len(backend.made) == 1
    for number, one in enumerate(faces):
        assert numbers(one.infer(pictures(number))) == [2 * number]
    assert backend.made[0].notes == ["open", 1, 1, 1]


OTHERS = [
    {"threads": 2},
    {"device": "cuda:1"},
    {"batch_size": 4},
    {"input_shapes": {"size": (2,)}},
    {"spec": make_spec(input={"height": 1, "width": 1}, constants={"size": 3})},
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_other_options_are_another_network(face, backend, options):
    face("a")
    face("b", **options)
    assert len(backend.made) == 2
    assert backend.made[1].spec is options.get("spec", SPEC)
    for name in set(options) - {"spec"}:
        assert getattr(backend.made[1], name) == options[name]


@pytest.mark.parametrize("change", ["another name", "other content", "another time", "another backend"])
def test_another_file_is_another_network(face, backend, model, tmp_path, change):
    face("a")
    path = model
    if change == "another name":
        path = Path(shutil.copy2(model, tmp_path / "other.onnx"))
    elif change == "other content":
        times = model.stat()
        model.write_bytes(b"another network")
        os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "another time":
        os.utime(model, ns=(0, 0))
    else:
        other = SharedBackend(model, SPEC, backend=type("Other", (backend,), {}))
        with other:
            assert len(backend.made) == 2
        return
    face("b", path=path)
    assert len(backend.made) == 2


# ---- batches


def test_pictures_of_several_streams_go_into_one_batch(face, backend, start):
    backend.steps = True
    a, b, c = (face(name, batch_size=4) for name in "abc")
    first = start(a, 1)
    assert next_batch(backend) == [1]
    others = [start(b, 2), start(c, 3, 4)]
    backend.go.release(2)
    assert sorted(next_batch(backend)) == [2, 3, 4]
    assert first.result(TIMEOUT) == [2]
    assert [other.result(TIMEOUT) for other in others] == [[4], [6, 8]]


def test_a_flood_does_not_delay_others_by_more_than_a_running_batch(face, backend, start):
    backend.steps = True
    flood, calm = face("flood", batch_size=4), face("calm", batch_size=4)
    flooded = [start(flood, *range(100, 150)), start(flood, *range(150, 200))]
    assert next_batch(backend) == [100, 101, 102, 103]
    for number in range(5):
        waiting = start(calm, number)
        backend.go.release()
        batch = next_batch(backend)
        assert number in batch
        assert len(batch) == 4
        assert not waiting.done()
        backend.go.release()
        assert waiting.result(TIMEOUT) == [2 * number]
        next_batch(backend)
    backend.steps = False
    backend.go.release(1)
    assert [one.result(TIMEOUT) for one in flooded] == [[2 * n for n in range(100, 150)], list(range(300, 400, 2))]


@pytest.mark.parametrize("max_latency_ms", [0, 1])
def test_everyone_gets_their_own_in_order(face, backend, pool, max_latency_ms):
    faces = [face(str(index), batch_size=5, max_latency_ms=max_latency_ms) for index in range(6)]

    def stream(index):
        rng, results = random.Random(index), []
        given = [[index * 1000 + 10 * call + n for n in range(rng.randint(1, 8))] for call in range(30)]
        for call in given:
            results.append(numbers(faces[index % 6].infer(pictures(*call))))
        return results == [[2 * number for number in call] for call in given]

    assert all(pool.map(stream, range(9)))  # the last three in streams that another thread uses, too
    counts = faces[0].counts()
    assert max(counts.sizes) <= 5
    assert counts.failed == 0
    assert all(waiting == 0 for _, waiting in counts.waiting)


def test_results_belong_to_their_callers(face, backend, start):
    backend.steps = True
    a, b = face("a", batch_size=2), face("b", batch_size=2)
    results = {}

    def infer(name, stream, *given):
        results[name] = stream.infer(pictures(*given))
        results[name][:] = 7

    first = threading.Thread(target=infer, args=("a", a, 1))
    first.start()
    assert next_batch(backend) == [1]
    waiting = [start(a, 2), start(b, 3)]
    backend.go.release(2)
    first.join(TIMEOUT)
    assert [one.result(TIMEOUT) for one in waiting] == [[4], [6]]


def test_a_batch_is_held_open_for_others(face, backend, start):
    """For a minute, if it had to: it ends when the other one's picture is there."""
    a, b = (face(name, batch_size=4, max_latency_ms=60_000) for name in "ab")
    assert start(b, 1).result(TIMEOUT) == [2]  # a has not begun and is not waited for
    waiting = start(a, 2)
    assert a.counts().waiting == (("a", 1), ("b", 0))
    assert start(b, 3).result(TIMEOUT) == [6]
    assert waiting.result(TIMEOUT) == [4]
    assert a.counts().sizes == {1: 1, 2: 1}


def test_who_leaves_is_not_waited_for(face, backend, start):
    a, b = (face(name, batch_size=4, max_latency_ms=60_000) for name in "ab")
    assert start(b, 1).result(TIMEOUT) == [2]
    waiting = start(a, 2)
    b.close()
    assert waiting.result(TIMEOUT) == [4]


def test_a_frozen_stream_delays_no_longer_than_was_said(face, backend, start):
    a, b = (face(name, batch_size=4, max_latency_ms=1) for name in "ab")
    assert start(b, 1).result(TIMEOUT) == [2]
    assert start(a, 2).result(TIMEOUT) == [4]  # alone, after a millisecond


def test_without_a_latency_nothing_waits_for_others(face, backend, start):
    a, b = (face(name, batch_size=4) for name in "ab")
    assert start(b, 1).result(TIMEOUT) == [2]
    assert start(a, 2).result(TIMEOUT) == [4]


def test_batches_of_networks_of_fixed_size_are_filled(face, backend, start):
    backend.fixed, backend.steps = 3, True
    a, b = face("a", batch_size=4), face("b", batch_size=4)
    assert a.fixed_batch is None
    assert a.counts().batch_size == 6
    first = start(a, 1, 2, 3)
    assert next_batch(backend) == [1, 2, 3]
    second = start(b, *range(4, 14))
    backend.go.release(3)
    assert first.result(TIMEOUT) == [2, 4, 6]
    assert [next_batch(backend), next_batch(backend)] == [[4, 5, 6], [7, 8, 9]]
    backend.steps = False
    backend.go.release(1)
    assert second.result(TIMEOUT) == [2 * n for n in range(4, 14)]


# ---- failures


@pytest.mark.parametrize("kind", [EngineError, RuntimeError, SystemExit])
def test_a_bad_picture_hurts_its_own_stream_only(face, backend, start, kind):
    backend.steps, backend.fault = True, kind("cannot be computed")
    a, b, c = (face(name, batch_size=4) for name in "abc")
    first = start(a, 1)
    assert next_batch(backend) == [1]
    good, bad, other = start(a, 2), start(b, 3, BAD, 5, 6, 7), start(c, 4)
    backend.go.release(20)
    assert first.result(TIMEOUT) == [2]
    assert good.result(TIMEOUT) == [4]
    assert other.result(TIMEOUT) == [8]
    with pytest.raises(kind, match=r"^cannot be computed$"):
        bad.result(TIMEOUT)
    seen = [sorted(next_batch(backend)) for _ in range(4)]
    assert seen == [[2, 3, 4, BAD], [3, BAD], [4], [2]]  # all together, then each alone; nothing of b's afterwards
    assert start(b, 8).result(TIMEOUT) == [16]
    counts = b.counts()
    assert (counts.batches, counts.failed, counts.pictures) == (6, 2, 10)


def test_a_bad_picture_is_not_tried_again_for_a_stream_that_is_gone(face, backend, start):
    backend.steps, backend.fault = True, EngineError("cannot be computed")
    a, b = face("a", batch_size=2), face("b", batch_size=2)
    first = start(a, 1)
    assert next_batch(backend) == [1]
    bad, good = start(a, BAD), start(b, 2)
    backend.go.release()
    assert first.result(TIMEOUT) == [2]
    assert sorted(next_batch(backend)) == [2, BAD]
    a.close()
    assert isinstance(bad.exception(TIMEOUT), EngineError)
    backend.go.release(2)
    assert good.result(TIMEOUT) == [4]
    more = start(b, 3)
    assert [next_batch(backend), next_batch(backend)] == [[2], [3]]
    backend.go.release()
    assert more.result(TIMEOUT) == [6]


def test_results_that_cannot_be_told_apart(face, backend, monkeypatch):
    monkeypatch.setattr(backend, "_run", lambda self, batch: batch.sum(axis=0))
    assert complaint(EngineError, face("a", batch_size=2).infer, pictures(1, 2)) == (
        "network 'net.onnx' gave a result of shape [3, 1, 1] for a batch of 2; to be shared, it has to give one for "
        "each picture"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 4, 1, 1), np.float32), "2: it is float32 2x4x1x1"),
        (np.zeros((2, 3, 1, 1), np.float64), "2: it is float64 2x3x1x1"),
        (np.zeros((0, 3, 1, 1), np.float32), "0: it is float32 0x3x1x1"),
    ],
)
def test_pictures_that_fit_into_no_batch_do_not_get_there(face, backend, given, said):
    assert complaint(EngineError, face("cam 1").infer, given) == (
        f"stream 'cam 1' failed on 'net.onnx' with a batch of {said}, expected float32 Nx3x1x1"
    )
    assert backend.made[0].notes == ["open"]


def test_pictures_of_the_other_layout(face):
    spec = make_spec(input={"height": 2, "width": 1, "layout": "nhwc", "dtype": "uint8"})
    stream = face("a", spec=spec)
    np.testing.assert_array_equal(stream.infer(np.ones((1, 2, 1, 3), np.uint8)), np.full((1, 2, 1, 3), 2))


# ---- opening, closing


def test_loaded_with_the_first_and_freed_with_the_last(face, backend):
    a, b = face("a"), face("b")
    a.close()
    assert numbers(b.infer(pictures(1))) == [2]
    b.close()
    b.close()
    assert shared_counts() == []
    assert not [thread for thread in threading.enumerate() if thread.name == "shared net.onnx"]
    only = backend.made[0]
    assert only.notes == ["open", 1, "close"]
    assert len(only.idents) == 1  # libraries have settings of a thread
    assert threading.get_ident() not in only.idents
    assert numbers(b.open().infer(pictures(3))) == [6]
    assert len(backend.made) == 2


def test_opened_and_closed_by_many_threads_at_once(model, backend, pool):
    barrier = threading.Barrier(16)
    one = SharedBackend(model, SPEC, backend=backend, name="one for several threads")

    def live(index):
        stream = one if index % 2 else SharedBackend(model, SPEC, backend=backend, batch_size=3)
        for _ in range(20):
            barrier.wait(TIMEOUT)
            stream.open()
            if stream is not one:
                assert numbers(stream.infer(pictures(index))) == [2 * index]
            stream.close()

    list(pool.map(live, range(16)))
    assert shared_counts() == []
    for made in backend.made:
        assert (made.notes[0], made.notes[-1]) == ("open", "close")
        assert (made.notes.count("open"), made.notes.count("close")) == (1, 1)


def test_a_stream_is_not_opened_while_it_is_being_closed(face, monkeypatch):
    """Or it would leave the network that it has just joined."""
    a, seen = face("a"), []
    leave = a._network.leave
    monkeypatch.setattr(a._network, "leave", lambda lane: (seen.append(a._opening.locked()), leave(lane)))
    a.close()
    assert seen == [True]


def test_opening_at_once_loads_once(model, backend, pool):
    barrier = threading.Barrier(8)
    faces = [SharedBackend(model, SPEC, backend=backend, name=str(number)) for number in range(8)]

    def open_one(stream):
        barrier.wait(TIMEOUT)
        stream.open()

    list(pool.map(open_one, faces))
    assert [made.notes for made in backend.made] == [["open"]]
    assert len(shared_counts()[0].waiting) == 8
    list(pool.map(SharedBackend.close, faces))
    assert [made.notes for made in backend.made] == [["open", "close"]]


def test_networks_that_cannot_be_opened(model, backend, pool):
    backend.opening_fault = ModelError("model 'net.onnx' is broken")
    barrier = threading.Barrier(4)

    def open_one(_):
        stream = SharedBackend(model, SPEC, backend=backend)
        barrier.wait(TIMEOUT)
        return complaint(ModelError, stream.open), complaint(EngineError, stream.infer, pictures(1))

    for first, second in pool.map(open_one, range(4)):
        assert first == "model 'net.onnx' is broken"
        assert second == "network 'net.onnx' is not open: call open() before infer()"
    assert shared_counts() == []
    backend.opening_fault = None
    with SharedBackend(model, SPEC, backend=backend) as stream:
        assert numbers(stream.infer(pictures(1))) == [2]


def test_files_that_are_not_there_are_the_inner_backends_concern(tmp_path, backend):
    backend.opening_fault = ModelError("no such file")
    assert complaint(ModelError, SharedBackend(tmp_path / "no.onnx", SPEC, backend=backend).open) == "no such file"


def test_closing_in_the_middle_loses_only_ones_own(face, backend, start):
    backend.steps = True
    a, b, c = (face(name, batch_size=2) for name in "abc")
    running = start(a, 1)
    assert next_batch(backend) == [1]
    lost, kept = start(a, 2, 3), start(b, 4)
    a.close()
    for one in (running, lost):
        with pytest.raises(EngineError) as caught:
            one.result(TIMEOUT)
        assert str(caught.value) == "network 'net.onnx' was closed by stream 'a' while pictures of it waited"
    backend.go.release()
    assert next_batch(backend) == [4]
    more = start(c, 5)
    backend.go.release()
    assert next_batch(backend) == [5]
    backend.go.release()
    assert kept.result(TIMEOUT) == [8]
    assert more.result(TIMEOUT) == [10]
    assert complaint(EngineError, a.infer, pictures(6)) == (
        "network 'net.onnx' is not open: call open() before infer()"
    )


def test_nothing_is_put_where_nobody_fetches_it(face, backend, monkeypatch):
    """Closed between the look at whether it is open, and the queue."""
    a, _ = face("a"), face("b")
    check = a._check_batch
    monkeypatch.setattr(a, "_check_batch", lambda batch: (check(batch), a.close()))
    assert "was closed by stream 'a'" in complaint(EngineError, a.infer, pictures(1))


def test_callers_that_are_gone_leave_nothing(face, backend, start, monkeypatch):
    backend.steps = True
    a, b = face("a", batch_size=4), face("b", batch_size=4)
    first = start(a, 1)
    assert next_batch(backend) == [1]
    with monkeypatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            b.infer(pictures(2, 3))
    other = start(a, 4)
    assert b.counts().waiting == (("a", 1), ("b", 0))
    backend.go.release(2)
    assert next_batch(backend) == [4]
    assert (first.result(TIMEOUT), other.result(TIMEOUT)) == ([2], [8])


# ---- what is told


def test_counts(face, backend, start):
    backend.steps = True
    a, b = face("cam 1", batch_size=4), face("cam 2", batch_size=4)
    running = start(a, 1)
    next_batch(backend)
    waiting = [start(b, 2), start(b, 3, 4)]
    (counts,) = shared_counts()
    assert counts == a.counts() == b.counts()
    assert counts.waiting == (("cam 1", 0), ("cam 2", 3))
    assert (counts.model, counts.batch_size, counts.batches, counts.sizes) == ("net.onnx", 4, 1, {1: 1})
    backend.go.release(2)
    assert running.result(TIMEOUT) == [2]
    assert [one.result(TIMEOUT) for one in waiting] == [[4], [6, 8]]
    counts = a.counts()
    assert (counts.batches, counts.failed, counts.pictures, counts.sizes) == (2, 0, 4, {1: 1, 3: 1})


def test_it_says_who_shares_it(face):
    a = face("a", batch_size=8)
    assert a.describe() == "a test, shared by 1 stream in batches of up to 8"
    face("b", batch_size=8)
    assert a.describe() == "a test, shared by 2 streams in batches of up to 8"
    face("", batch_size=8)  # of who only keeps the network loaded
    assert a.describe() == "a test, shared by 2 streams in batches of up to 8"
    assert [name for name, _ in a.counts().waiting] == ["a", "b"]


def test_batches_go_through_host_memory(face):
    stream = face("a", batch_size=8)
    assert stream.stream is None
    assert stream.batch_size == 1
    with pytest.raises(EngineError, match="in host memory only"):
        stream.infer_on_device(None)
