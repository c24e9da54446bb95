"""A Ray cluster of several nodes on this machine: workers that die, nodes that go and come, a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import jobs
import psutil
import pytest
from batch_runs import batch_settings, films_in, frame_numbers, is_playable, visible

from bmf_trt_seg.batch.cluster import Machine, Need, connected, machines, room
from bmf_trt_seg.batch.driver import Batch
from bmf_trt_seg.errors import ConfigError, StreamError

ray = pytest.importorskip("ray")
pytestmark = [
    # what Ray leaves open, in this process
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STORE = 80 << 20
FILMS, FRAMES = 3, 450


class Nodes:
    """The cluster: a head that works for nobody, and nodes of one CPU."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
        )
        self.address = self._cluster.address
        self.nodes = []

    def add(self):
        self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE))

    def remove(self):
        self._cluster.remove_node(self.nodes.pop())

    def close(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = {process.pid for process in psutil.process_iter()}
    nodes = Nodes()
    nodes.add()
    nodes.add()
    yield nodes
    nodes.close()
    left = [process for process in psutil.process_iter() if process.pid not in before and _is_of_ray(process)]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


def _is_of_ray(process):
    try:
        return any(word in " ".join(process.cmdline()) for word in ("raylet", "gcs_server", "ray::", "default_worker"))
    except psutil.Error:
        return False


@pytest.fixture
def inputs(tmp_path):
    """Films that take a worker a second or so each."""
    folder = tmp_path / "in"
    folder.mkdir()
    first = clips.write_clip(folder / "film0.mp4", frames=FRAMES, size_wh=(320, 180), audio=("aac",), b_frames=2)
    for number in range(1, FILMS):
        (folder / f"film{number}.mp4").write_bytes(first.read_bytes())
    return folder


def batch_of(inputs, settings, retries=2):
    batch = Batch(films_in(inputs, settings), settings, retries)
    assert not batch.check(overwrite=False)
    return batch


def assert_all_there(out: Path, count: int = FILMS, frames: int = FRAMES) -> None:
    """Every output once and whole, and nothing else."""
    names = {f"film{number}.mp4" for number in range(count)}
    assert visible(out) == {*names, *(f"{name}.jsonl" for name in names), "batch-report.json"}
    for name in names:
        assert frame_numbers(out / name) == list(range(frames))
        assert [record["frame"] for record in jobs.read_records(out / f"{name}.jsonl")] == list(range(frames))
        assert len(clips.packets_of(out / name, "audio")[0]) > 1
    assert not list((out / ".batch" / "work").iterdir())


def run(batch, cluster, watch=lambda view: None, workers=None):
    with connected(cluster.address, verbose=False):
        return batch.run(Need(0, 1), workers, watch)


def at_work(view):
    """Workers that are in the middle of a film."""
    return [worker for worker in view.busy if 0 < worker.progress.frames < FRAMES * 2 // 3]


def test_a_worker_is_killed_in_mid_file(cluster, inputs, bright, tmp_path):
    killed = []

    def watch(view):
        if at_work(view) and not killed:
            killed.append(at_work(view)[0])
            os.kill(killed[0].pid, signal.SIGKILL)
            assert not (tmp_path / "out" / killed[0].task.film.name).exists()

    report = run(batch_of(inputs, batch_settings(tmp_path / "out", bright)), cluster, watch)
    assert killed
    assert report.is_whole
    assert_all_there(tmp_path / "out")
    films = {film["output"]: film for film in report.as_dict()["films"]}
    assert films[killed[0].task.film.name]["failures"] == 1
    assert "is gone" in films[killed[0].task.film.name]["last_failure"]
    assert report.as_dict()["workers"] >= 2


def test_a_node_goes_away_and_another_one_comes(cluster, inputs, bright, tmp_path):
    events = []

    def watch(view):
        if len(at_work(view)) == 2 and not events:
            events.append("removed")
            cluster.remove()
        elif events == ["removed"] and len(view.busy) == 1:
            events.append("alone")
            cluster.add()
        elif events == ["removed", "alone"] and len(at_work(view)) == 2:
            events.append("two again")

    batch = batch_of(inputs, batch_settings(tmp_path / "out", bright, interval=1))
    report = run(batch, cluster, watch)
    assert events[:2] == ["removed", "alone"]
    assert report.is_whole
    assert_all_there(tmp_path / "out")
    assert sum(film["failures"] for film in report.as_dict()["films"]) == 1
    assert report.as_dict()["workers"] == 3


def test_a_worker_is_killed_in_the_middle_of_a_part(cluster, bright, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    groups = (("g", "50"), ("sc_threshold", "0"))
    clips.write_clip(folder / "film0.mp4", frames=1000, size_wh=(320, 180), audio=("aac",), options=groups, b_frames=2)
    settings = batch_settings(tmp_path / "out", bright, cut_seconds=10.0)
    killed = []

    def watch(view):
        parts = [worker for worker in at_work(view) if worker.task.part is not None]
        if parts and not killed:
            killed.append(parts[0].task.label)
            os.kill(parts[0].pid, signal.SIGKILL)

    report = run(batch_of(folder, settings), cluster, watch)
    assert killed
    assert report.is_whole
    assert_all_there(tmp_path / "out", count=1, frames=1000)
    (film,) = report.as_dict()["films"]
    assert (film["parts"], film["failures"]) == (4, 1)


def test_a_film_that_kills_its_workers_is_given_up(cluster, inputs, bright, tmp_path):
    settings = batch_settings(tmp_path / "out", bright)

    def watch(view):
        for worker in at_work(view):
            if worker.task.film.name == "film2.mp4":
                os.kill(worker.pid, signal.SIGKILL)

    report = run(batch_of(inputs, settings, retries=1), cluster, watch)
    assert [(state.film.name, sum(state.failures.values())) for state in report.failed] == [("film2.mp4", 2)]
    assert not report.is_whole
    assert visible(tmp_path / "out") >= {"film0.mp4", "film1.mp4"}
    assert not (tmp_path / "out" / "film2.mp4").exists()
    assert not list((tmp_path / "out" / ".batch" / "work").iterdir())


def test_a_worker_that_freezes_is_replaced(cluster, inputs, bright, tmp_path, monkeypatch):
    monkeypatch.setattr("bmf_trt_seg.batch.pool._FROZEN_SECONDS", 2.0)
    frozen = []

    def watch(view):
        if at_work(view) and not frozen:
            frozen.append(at_work(view)[0])
            os.kill(frozen[0].pid, signal.SIGSTOP)

    report = run(batch_of(inputs, batch_settings(tmp_path / "out", bright)), cluster, watch)
    assert report.is_whole
    assert_all_there(tmp_path / "out")
    films = {film["output"]: film for film in report.as_dict()["films"]}
    assert films[frozen[0].task.film.name]["last_failure"].endswith("gave no sign of life for 2 s")
    assert not psutil.pid_exists(frozen[0].pid)


def test_workers_that_only_fail_are_started_anew_once_each(cluster, inputs, tmp_path, caplog):
    model = clips.failing_model(tmp_path / "failing.onnx")
    report = run(batch_of(inputs, batch_settings(tmp_path / "out", model)), cluster)
    assert len(report.failed) == FILMS
    renewed = [record.args[1] for record in caplog.records if "started anew" in record.getMessage()]
    assert len(renewed) == 2
    assert report.as_dict()["workers"] > 2
    assert not any(psutil.pid_exists(pid) for pid in renewed)
    assert not list((tmp_path / "out" / ".batch" / "work").iterdir())


def test_what_is_wrong_with_the_network_ends_the_run_at_once(cluster, inputs, bright, tmp_path):
    with pytest.raises(ConfigError, match="option 'classes': the model has no class 'dog'"):
        run(batch_of(inputs, batch_settings(tmp_path / "out", bright, classes=["dog"])), cluster)
    assert visible(tmp_path / "out") == {"batch-report.json"}


def test_the_driver_is_killed_and_started_again(cluster, inputs, bright, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "bmf_trt_seg.cli.main", "batch", inputs, "-o", out, "-m", bright, "--json", "--crf", "0",
        "--preset", "ultrafast", "--cpus-per-worker", "1", "--decoder", "ffmpeg", "--address", cluster.address,
    ]  # fmt: skip
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _wait(lambda: list(out.glob(".batch/done/*.json")) and list(out.glob(".batch/work/*/made/.made*")), first)
    first.kill()
    first.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert 0 < len(done) < FILMS
    assert all(is_playable(out / name) for name in done)

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert_all_there(out)
    counts = json.loads((out / "batch-report.json").read_text())["counts"]
    assert counts["done before"] >= 1
    assert counts["done"] + counts["done before"] == FILMS
    recorded = [name for name in done if json.loads((out / ".batch" / "done" / f"{name}.json").read_text())]
    assert sum((out / name).stat().st_mtime_ns == done[name] for name in recorded) == counts["done before"]


def _wait(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_worker_is_given(cluster):
    with connected(cluster.address, verbose=False):
        assert sorted(machines(), key=lambda machine: machine.cpus) == [Machine(0, 0), Machine(0, 1), Machine(0, 1)]
        assert room("auto", None, None) == Need(0, 1)
        with pytest.raises(
            ConfigError, match="a worker needs 2 CPUs, and no machine has that; the largest has 0 GPUs and 1"
        ):
            room("cpu", None, 2)
        with pytest.raises(ConfigError, match="each worker sees one GPU, which Ray gives it; say 'cuda'"):
            room("cuda:1", None, None)


def test_gpus_are_shared_out_with_the_cpus_of_their_machine(monkeypatch):
    found = [Machine(4, 64), Machine(2, 16)]
    monkeypatch.setattr("bmf_trt_seg.batch.cluster.machines", lambda: found)
    assert room("auto", None, None) == Need(1, 8)
    assert [machine.holds(Need(1, 8)) for machine in found] == [4, 2]
    assert room("auto", 1, 16) == Need(1, 16)
    assert room("cpu", 5, None) == Need(0, 16)
    assert room("cpu", 1, None) == Need(0, 64)
    assert str(Need(1, 8)) == "1 GPU and 8 CPUs"


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("127.0.0.1:1", StreamError, "there is no Ray cluster at '127.0.0.1:1': Connection refused"),
        ("ray://head:10001", ConfigError, "--address ray://head:10001: give 'auto' or HOST:PORT of the cluster's head"),
        ("head", ConfigError, "--address head: give 'auto' or HOST:PORT of the cluster's head"),
    ],
)
def test_a_cluster_that_is_not_there(address, kind, message):
    with pytest.raises(kind) as raised, connected(address, verbose=False):
        pass
    assert str(raised.value).startswith(message)
