"""`batch` with TensorRT: a worker, in the process of the test."""

from __future__ import annotations

import clips
from batch_runs import batch_settings, do_all, films_in, frame_numbers

from bmf_trt_seg.engine import loading


def test_an_engine_is_read_once_for_all_films(tmp_path, person_fp32, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("one", "two"):
        clips.write_clip(tmp_path / "in" / f"{name}.mp4", frames=12)
    reads, load = [], loading.load_engine
    monkeypatch.setattr(loading, "load_engine", lambda *given: reads.append(given) or load(*given))
    settings = batch_settings(tmp_path / "out", person_fp32, batch_size=4)
    states = do_all(films_in(tmp_path / "in", settings), settings)
    assert [state.record.frames for state in states.values()] == [12, 12]
    assert frame_numbers(tmp_path / "out" / "two.mp4") == list(range(12))
    assert len(reads) == 1
