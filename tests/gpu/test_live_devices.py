"""`live --devices` on two GPUs: each process sees its own, and the feeds of one that is gone go to the other."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import clips
import psutil
import pytest
import web_runs
from gpu.networks import QUICK
from live_runs import Live, frames_of, live, until

torch = pytest.importorskip("torch")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, and a program where the package is not installed."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there are not two GPUs here")
    if not Path(web_runs.PROGRAM).exists():
        script = tmp_path / "bmf-trt-seg"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m bmf_trt_seg.cli.main "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr(web_runs, "PROGRAM", str(script))


def ready(run: Live) -> dict[str, dict[str, Any]]:
    return {one["stream"]: one for one in json.loads(run.ask("readyz"))["streams"]}


def test_feeds_of_a_lost_process_go_to_the_other_gpu(two_gpus: None, person: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    clip = clips.write_clip(tmp_path / "long.mp4", frames=1500)
    defaults = {
        "segment": {"model": str(person), "backend": "tensorrt", "build": f"precision=fp16,opt_level={QUICK}"},
        "outputs": [{"kind": "file", "path": f"{tmp_path}/out/{{name}}.mp4", "segment_seconds": 5}],
    }
    feeds = [{"name": name, "url": str(clip)} for name in ("door", "yard", "mill")]
    feeds.append({"name": "gate", "url": str(clip), "segment": {"device": "cuda:1"}})
    with live(tmp_path, feeds, "--devices", "auto", defaults=defaults) as run:
        until(lambda: len(run.url) and all(one["ready"] for one in ready(run).values()), 300)
        before = {name: one["device"] for name, one in ready(run).items()}
        assert sorted(before.values()) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
        assert before["gate"] == "cuda:1"
        first = min(psutil.Process(run.process.pid).children(), key=lambda one: one.create_time())
        first.kill()
        until(lambda: {one["device"] for one in ready(run).values() if one["ready"]} == {"cuda:1"}, 60)
        until(lambda: sorted(one["device"] or "" for one in ready(run).values()) == sorted(before.values()), 60)
        assert ready(run)["gate"]["restarts"] == 0
        until(lambda: all(one["ready"] for one in ready(run).values()), 60)
        assert run.stop() == 128 + signal.SIGTERM
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert frames_of(sorted((tmp_path / "out").glob("gate-*.mp4"))) == run.summary("gate")["frames_out"]
