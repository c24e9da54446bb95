"""Networks of real size against the same networks in fp32 elsewhere, and INT8 calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gpu.figures import note
from gpu.networks import build_of, class_maps, device_maps, engine, views_nchw

from bmf_trt_seg.backends import select_backend
from bmf_trt_seg.spec import ModelSpec, spec_path

torch = pytest.importorskip("torch")

LEAST = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95}


def opened(path: Path, spec: ModelSpec, **values):
    return select_backend("auto", path)(path, spec, batch_size=4, **values).open()


@pytest.fixture(scope="module")
def reference(person):
    """Pictures of a person, and the class maps that ONNX Runtime makes of them in fp32."""
    spec = ModelSpec.read(spec_path(person))
    pictures = views_nchw(16, spec)
    with select_backend("onnxruntime", person)(person, spec) as backend:
        maps = class_maps(np.concatenate([backend.infer(pictures[index : index + 1]) for index in range(16)]), spec)
    return spec, pictures, maps


def compared(name: str, precision: str, maps, wanted) -> None:
    agreement = float((maps == wanted).mean())
    worst = float((maps == wanted).mean((1, 2)).min())
    share = float(np.bincount(wanted.ravel()).max() / wanted.size)
    note(f"{name} {precision}", agreement=agreement, worst_picture=worst, share_of_most_frequent_class=share)
    assert agreement >= LEAST[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_person(person_fp32, person_fp16, reference, precision):
    spec, pictures, wanted = reference
    with opened(person_fp32 if precision == "fp32" else person_fp16, spec) as backend:
        for batch in (1, 4, 8, 3):
            maps = device_maps(backend, pictures, batch)
            assert (maps == wanted).mean() >= LEAST[precision], f"batches of {batch}"
        on_host = class_maps(backend.infer(pictures[:8]), spec)
        assert (on_host == maps[:8]).mean() >= 0.999
    compared("person", precision, maps, wanted)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["fcn_resnet101", "segformer_b4"])
def test_large_networks(exported, name, precision):
    made = engine(exported / f"{name}.onnx", build=build_of(name, precision))
    with np.load(exported / f"{name}.npz") as saved:
        inputs, wanted, logits = saved["inputs"], saved["classes"], saved["logits"]
    errors = []

    def each(scores, start):
        if start == 0:
            errors.append(float((scores[: len(logits)].float().cpu() - torch.from_numpy(logits)).abs().max()))

    with opened(made.path, made.manifest.spec) as backend:
        for batch in (1, 4, 8):
            maps = device_maps(backend, inputs, batch, each if batch == 4 else None)
            assert (maps == wanted).mean() >= LEAST[precision], f"batches of {batch}"
    note(f"{name} {precision} logits", span=float(np.ptp(logits)), largest_error=errors[0])
    compared(name, precision, maps, wanted)


def test_int8_calibrated_on_a_clip(person, portrait_clip, reference):
    from bmf_trt_seg.calibration_frames import calibration_data

    spec, pictures, wanted = reference
    data = calibration_data(portrait_clip, spec.input, 32)
    made = engine(person, spec, precision="int8", calibration=data)
    assert made.manifest.calibration == data.identity
    with opened(made.path, spec) as backend:
        assert "int8" in backend.describe()
        maps = device_maps(backend, pictures, 4)
    compared("person", "int8", maps, wanted)


def test_calibration_is_kept(bright, portrait_clip, tmp_path, monkeypatch):
    from bmf_trt_seg.calibration_frames import calibration_data

    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path))  # so that nothing is there
    spec = ModelSpec.read(spec_path(bright))
    data = calibration_data(portrait_clip, spec.input, 32)
    asked = []

    def counted(size):
        for batch in data.batches(size):
            asked.append(len(batch))
            yield batch

    made = engine(bright, spec, precision="int8", calibration=dataclasses.replace(data, batches=counted))
    caches = list(tmp_path.glob("bright.*.calibration"))
    assert len(caches) == 1
    assert len(caches[0].read_text(errors="replace").splitlines()) > 1  # a heading, and a line a tensor
    assert set(asked) == {4}
    assert made.manifest.calibration == data.identity

    def never(size):
        raise AssertionError("pictures were read again")
        yield

    again = engine(
        bright, spec, precision="int8", workspace_mib=4096, calibration=dataclasses.replace(data, batches=never)
    )
    assert again.path != made.path
    assert again.path.is_file()
    assert list(tmp_path.glob("bright.*.calibration")) == caches


def test_pictures_that_cannot_be_read_end_the_calibration(bright, portrait_clip, tmp_path, monkeypatch):
    from bmf_trt_seg.calibration_frames import calibration_data
    from bmf_trt_seg.errors import StreamError

    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path))
    spec = ModelSpec.read(spec_path(bright))

    def broken(size):
        yield np.zeros((size, 3, spec.input.height, spec.input.width), np.float32)
        raise StreamError("the clip ends in nothing")

    data = dataclasses.replace(calibration_data(portrait_clip, spec.input, 32), batches=broken)
    with pytest.raises(StreamError, match=r"^the clip ends in nothing$"):
        engine(bright, spec, precision="int8", calibration=data)
    assert not list(tmp_path.glob("*.engine"))
    assert not list(tmp_path.glob("*.calibration"))
