"""`infer` and `images` with TensorRT: times of layers, a network as it was after them, JPEG decoded on the GPU."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from commands import Ended, runner
from gpu.figures import note
from gpu.networks import SPEC, contract_batch, contract_network, contract_result, engine, foreign_engine, picture
from PIL import Image

from bmf_trt_seg import picture_inference
from bmf_trt_seg.backends import select_backend

torch = pytest.importorskip("torch")


@pytest.fixture
def cli(capfd):
    return runner(capfd)


@pytest.fixture(scope="module")
def contract(tmp_path_factory, engines):
    return engine(contract_network(tmp_path_factory.mktemp("networks") / "contract.onnx"), SPEC, batch=(1, 2, 5)).path


@pytest.fixture
def portrait(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def check_profile(network, batch):
    run = network.profile(batch)
    seconds = [layer.seconds for layer in run.layers]
    assert seconds
    assert min(seconds) >= 0
    assert 0 < sum(seconds) <= (run.end_ns - run.begin_ns) / 1e9
    assert all(layer.name and "\n" not in layer.name for layer in run.layers)
    return run


@pytest.mark.parametrize("size", [1, 3])
def test_layers_are_timed_and_graphs_replayed_again(contract, size):
    batch = contract_batch(size)
    with select_backend("auto", contract)(contract, SPEC, batch_size=5) as network:
        for _ in range(4):
            network.infer(batch)
        assert network._graphs
        layers = [layer.name for layer in check_profile(network, batch).layers]
        assert not network._graphs, "a graph of a context that is gone"
        for seed in range(4):
            another = contract_batch(size, seed)
            np.testing.assert_allclose(network.infer(another), contract_result(another), atol=1e-5)
        assert network._graphs
        on_device = torch.from_numpy(batch).cuda()
        np.testing.assert_allclose(network.infer_on_device(on_device).cpu(), contract_result(batch), atol=1e-5)
        assert [layer.name for layer in check_profile(network, batch).layers] == layers


def test_profiling_beside_another_user_of_the_engine(contract):
    batch = contract_batch(2)
    backend = select_backend("auto", contract)
    with backend(contract, SPEC, batch_size=2) as network, backend(contract, SPEC, batch_size=2) as other:
        check_profile(network, batch)
        for one in (network, other):
            np.testing.assert_allclose(one.infer(batch), contract_result(batch), atol=1e-5)


def test_an_engine_of_another_program(tmp_path):
    """Which may have its profile for one context only."""
    shape = (2, 3, 8, 8)
    path = foreign_engine(
        contract_network(tmp_path / "net.onnx"), tmp_path / "net.engine", [{"input": (shape, shape, shape)}]
    )
    batch = contract_batch(1)
    with select_backend("auto", path)(path, SPEC) as network:
        check_profile(network, batch)
        np.testing.assert_allclose(network.infer(batch), contract_result(batch), atol=1e-5)


def test_infer(cli, tmp_path, person, person_fp32, portrait):
    out = tmp_path / "out"
    ended = cli("infer", "-m", person_fp32, "-i", portrait, "-o", out, "-r", "20")
    assert (ended.code, ended.err) == (0, "")
    assert "TensorRT" in ended.out.splitlines()[0]
    events = json.loads((out / "profiling.json").read_text())["traceEvents"]
    run = next(event for event in events if event["name"] == picture_inference.PROFILED)
    layers = [event for event in events if event["ph"] == "X" and event["tid"] == 2]
    assert len(layers) > 20
    assert all(run["ts"] <= one["ts"] and one["ts"] + one["dur"] <= run["ts"] + run["dur"] + 1 for one in layers)
    assert (
        cli("infer", "-m", person, "-i", portrait, "-o", tmp_path / "ort", "--backend", "onnxruntime", "-q").code == 0
    )
    agreement = np.mean(read(out / "classes.png") == read(tmp_path / "ort" / "classes.png"))
    note("infer, person fp32", same_classes=float(agreement), layers=len(layers))
    assert agreement >= 0.999


def test_images(cli, tmp_path, person, person_fp32, portrait):
    flags = ["-i", portrait, "-c", "person", "-b", "4"]
    ended = cli("images", *flags, "-o", tmp_path / "trt", "-m", person_fp32, "-bk", "tensorrt", "-d", "0")
    assert ended.code == 0
    assert "portrait.png was inferred 4 times; the results are all the same, bit by bit\n" in ended.err
    assert cli("images", *flags, "-o", tmp_path / "ort", "-m", person, "-bk", "onnxruntime", "-q") == Ended(0, "", "")
    ours, theirs = (read(tmp_path / way / "out_portrait.png").astype(int) for way in ("trt", "ort"))
    assert np.mean(np.abs(ours - theirs) <= 1) >= 0.99


def test_jpeg_is_decoded_on_the_gpu(cli, tmp_path, person_fp32):
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.nvimgcodec") is None:
        pytest.skip("there is no nvImageCodec here")
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture())
    image.save(folder / "upright.jpg", quality=95, subsampling=0)
    image.resize((400, 300)).save(folder / "turned.jpg", quality=95, subsampling=0, exif=exif)
    image.convert("L").save(folder / "grey.jpg")
    arguments = ["images", "-i", folder, "-m", person_fp32, "-b", "3"]
    ended = cli(*arguments, "-o", tmp_path / "gpu", "-v")
    assert ended.code == 0
    assert "JPEG is decoded on cuda:0 by nvImageCodec " in ended.err
    assert "is left to the CPU" not in ended.err
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bmf_trt_seg.still_pictures.open_gpu_jpeg", lambda device: None)
        assert cli(*arguments, "-o", tmp_path / "cpu", "-q").code == 0
    for name, size in (("upright", image.size), ("turned", (300, 400)), ("grey", image.size)):
        ours, theirs = (read(tmp_path / way / f"out_{name}.jpg").astype(int) for way in ("gpu", "cpu"))
        assert ours.shape[1::-1] == size
        assert np.mean(np.abs(ours - theirs) <= 6) >= 0.98
