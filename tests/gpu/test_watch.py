"""Pictures for those who watch, of frames that are on the GPU."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from factories import make_picture
from gpu.test_pipeline import run
from PIL import Image

from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.watch import streams
from bmf_trt_seg.watch.jpeg import jpeg_of

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("size_wh", [(64, 48), (1920, 1080)])
def test_a_picture_on_the_gpu_is_that_of_the_host(size_wh):
    picture = make_picture("nv12", *size_wh)
    planes = tuple(torch.from_numpy(np.ascontiguousarray(plane)).cuda() for plane in picture.planes)
    on_gpu = FramePlanes("nv12", *size_wh, planes, picture.matrix, picture.value_range)
    assert jpeg_of(on_gpu) == jpeg_of(picture)


@pytest.mark.parametrize("frames_out", ["host", "device"])
def test_a_graph_is_watched_and_gives_the_same(person_fp16, portrait_clip, tmp_path, frames_out):
    values = {"batch_size": 4, "frames_out": frames_out, "name": "watched"}
    _, plain = run(portrait_clip, person_fp16, tmp_path / "plain.npz", **values)
    seen, stop = [], threading.Event()

    def watch():
        while not stop.wait(0.01):
            watched = streams.stream("watched")
            if watched is not None:
                watched.preview.want()
                found = watched.preview.jpeg()
                if found is not None:
                    seen.append(found)

    with streams.watching():
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            _, drawn = run(portrait_clip, person_fp16, tmp_path / "watched.npz", **values)
        finally:
            stop.set()
            thread.join()
        watched = streams.stream("watched")
        assert 0.05 < watched.shares.latest()[1] < 0.95
        _, last = watched.preview.jpeg()
    np.testing.assert_array_equal(drawn, plain)
    with Image.open(io.BytesIO(last)) as image:
        assert image.size[0] == min(640, plain.shape[2])
        assert np.asarray(image).std() > 10
