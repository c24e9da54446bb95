"""Options and networks that change in a graph whose frames are on the GPU."""

from __future__ import annotations

import numpy as np
import pytest
from gpu.test_pipeline import run

from bmf_trt_seg import changes


@pytest.mark.parametrize("frames_out", ["host", "device"])
def test_the_look_and_the_engine_change_between_two_frames(
    person_fp16, person_fp32, portrait_clip, tmp_path, frames_out, monkeypatch
):
    from bmf_trt_seg.module import SegmentModule

    values = {"frames_out": frames_out, "max_in_flight": 4, "smoothing": 0.0}
    wanted = {10: {"style": "cutout", "background_color": "#ff0000"}, 20: {"model": str(person_fp32)}}
    take = SegmentModule._take

    def changing(module, packet):
        number = module._metrics.frames_in
        if module._options.name == "changed" and number in wanted:
            changes.stream("changed").change(wanted[number]).result(120)
        take(module, packet)

    monkeypatch.setattr(SegmentModule, "_take", changing)
    pts, found = run(portrait_clip, person_fp16, tmp_path / "changed.npz", name="changed", **values)
    plain_pts, plain = run(portrait_clip, person_fp16, tmp_path / "plain.npz", name="plain", **values)
    _, other = run(portrait_clip, person_fp16, tmp_path / "other.npz", name="other", **values, **wanted[10])
    _, full = run(portrait_clip, person_fp32, tmp_path / "full.npz", name="full", **values, **wanted[10])
    np.testing.assert_array_equal(pts, plain_pts)
    # asked for while a frame was about to be taken: the next one is the first
    for part, expected in ((slice(0, 11), plain), (slice(11, 21), other), (slice(21, None), full)):
        assert len(found[part]) == len(expected[part]) > 0
        assert (found[part] == expected[part]).mean() > 0.9999
    assert (plain[11:21] == other[11:21]).mean() < 0.95
