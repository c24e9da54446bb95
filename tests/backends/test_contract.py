"""One contract for every backend, on the same small network: a convolution and a sigmoid."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from factories import make_spec, save_onnx

from bmf_trt_seg.backends import Backend, select_backend
from bmf_trt_seg.backends.shared import SharedBackend
from bmf_trt_seg.errors import EngineError

WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
SPEC = make_spec(activation="none")
KINDS = ["onnxruntime", "torchscript", "torch.export", "shared"]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS))

    def forward(self, input):
        return torch.sigmoid(torch.nn.functional.conv2d(input, self.weights, padding=1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The network in a file of each kind; 'fixed' ones take batches of exactly 2."""
    folder, example = tmp_path_factory.mktemp("networks"), (torch.zeros(2, 3, 8, 8),)
    module = Network().eval()
    made = {}
    for name, batch, sizes in [("", "N", {0: torch.export.Dim("N")}), ("fixed ", 2, None)]:
        made[f"{name}onnxruntime"] = save_onnx(folder / f"{name}net.onnx", WEIGHTS, then="Sigmoid", batch=batch)
        program = torch.export.export(module, example, dynamic_shapes=(sizes,))
        made[f"{name}torch.export"] = folder / f"{name}net.pt2"
        torch.export.save(program, made[f"{name}torch.export"])
    made["shared"] = save_onnx(folder / "shared.onnx", WEIGHTS, then="Sigmoid")
    made["torchscript"] = folder / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, example).save(made["torchscript"])
    return made


def backend(path, **options):
    kind = select_backend("auto", path)
    if path.stem == "shared":
        return SharedBackend(path, SPEC, backend=kind, batch_size=2, **options)
    return kind(path, SPEC, **options)


@pytest.fixture(params=KINDS)
def network(request, files):
    with backend(files[request.param]) as opened:
        yield opened


@pytest.fixture(params=["fixed onnxruntime", "fixed torch.export"])
def fixed(request, files):
    with backend(files[request.param]) as opened:
        yield opened


def batch(size, seed=0):
    return np.random.default_rng(seed).random((size, 3, 8, 8), np.float32)


def expected(batch):
    padded = np.pad(batch.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return 1 / (1 + np.exp(-np.einsum("nchwij,ocij->nohw", windows, WEIGHTS)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_batches_of_any_size(network, size):
    scores = network.infer(batch(size))
    assert (scores.shape, scores.dtype) == ((size, 2, 8, 8), np.float32)
    np.testing.assert_allclose(scores, expected(batch(size)), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_networks_of_fixed_batch_get_parts(fixed, size):
    assert fixed.fixed_batch == 2
    scores = fixed.infer(batch(size))
    assert scores.shape == (size, 2, 8, 8)
    np.testing.assert_allclose(scores, expected(batch(size)), atol=1e-5)


def test_sizes_may_alternate(network):
    for size in [4, 1, 3, 1, 4]:
        np.testing.assert_allclose(network.infer(batch(size, size)), expected(batch(size, size)), atol=1e-5)


def test_pictures_of_a_batch_do_not_mix(network):
    together = network.infer(batch(4))
    alone = np.concatenate([network.infer(batch(4)[index : index + 1]) for index in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_input_is_not_changed(network):
    given = batch(3)
    network.infer(given)
    np.testing.assert_array_equal(given, batch(3))


def test_output_belongs_to_the_caller(network):
    first = network.infer(batch(2))
    kept = first.copy()
    network.infer(batch(2, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 7
    np.testing.assert_array_equal(network.infer(batch(2)), kept)


def test_many_runs_give_the_same(network):
    first = network.infer(batch(2))
    for _ in range(50):
        np.testing.assert_array_equal(network.infer(batch(2)), first)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads(files, kind, threads):
    with backend(files[kind], threads=threads) as opened:
        np.testing.assert_allclose(opened.infer(batch(1)), expected(batch(1)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_closed_networks_do_not_run(files, kind):
    made = backend(files[kind])
    message = rf"^network '{made.model.name}' is not open: call open\(\) before infer\(\)$"
    with pytest.raises(EngineError, match=message):
        made.infer(batch(1))
    assert made.open() is made
    made.infer(batch(1))
    made.close()
    made.close()
    with pytest.raises(EngineError, match=message):
        made.infer(batch(1))


@pytest.mark.parametrize("kind", KINDS)
def test_networks_may_be_opened_again_and_twice(files, kind):
    made = backend(files[kind])
    made.close()
    for _ in range(2):
        made.open().open()
        np.testing.assert_allclose(made.infer(batch(1)), expected(batch(1)), atol=1e-5)
        made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_the_context_closes(files, kind):
    with pytest.raises(KeyError), backend(files[kind]) as opened:
        raise KeyError
    with pytest.raises(EngineError, match="is not open"):
        opened.infer(batch(1))


def test_two_of_a_kind_do_not_mix(network, files):
    with backend(network.model) as other:
        other.infer(batch(1))
    np.testing.assert_allclose(network.infer(batch(1)), expected(batch(1)), atol=1e-5)


def test_failed_runs_are_told_and_not_the_end(network):
    with pytest.raises(EngineError, match=rf"failed on '{network.model.name}' with a batch of 2: .*"):
        network.infer(np.zeros((2, 4, 8, 8), np.float32))
    np.testing.assert_allclose(network.infer(batch(1)), expected(batch(1)), atol=1e-5)


class Noted(Backend):
    """Notes what is done with it."""

    notes = ""

    def describe(self):
        return "a test"

    def _open(self):
        self.notes += "open "

    def _run(self, batch):
        self.notes += f"run {len(batch)} "
        return batch

    def _close(self):
        self.notes += "close "


def test_opened_and_closed_no_more_than_needed(tmp_path):
    noted = Noted(tmp_path / "net", SPEC)
    noted.close()
    noted.open().open().infer(batch(3))
    noted.close()
    noted.close()
    assert noted.notes == "open run 3 close "


def test_fixed_parts_are_filled_up(tmp_path):
    noted = Noted(tmp_path / "net", SPEC).open()
    noted.fixed_batch = 4
    np.testing.assert_array_equal(noted.infer(batch(9)), batch(9))
    np.testing.assert_array_equal(noted.infer(batch(4)), batch(4))
    assert noted.notes == "open run 4 run 4 run 4 run 4 "


def test_it_says_where_it_runs(network):
    assert "on the CPU" in network.describe()
