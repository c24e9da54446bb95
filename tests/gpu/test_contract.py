"""The contract of tests/backends/test_contract.py on TensorRT, for batches on the host and on the GPU."""

from __future__ import annotations

import numpy as np
import pytest
from gpu.networks import SPEC, contract_batch, contract_network, contract_result, engine

from bmf_trt_seg.backends import select_backend
from bmf_trt_seg.errors import EngineError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def files(tmp_path_factory, engines):
    """The network for batches of 1 to 5, and for batches of exactly 2."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "dynamic": engine(contract_network(folder / "contract.onnx"), SPEC, batch=(1, 2, 5)).path,
        "fixed": engine(contract_network(folder / "fixed.onnx", batch=2), SPEC).path,
    }


def opened(path, spec=SPEC, **options):
    return select_backend("auto", path)(path, spec, **options)


@pytest.fixture
def network(files):
    with opened(files["dynamic"]) as backend:
        yield backend


def on_host(backend, batch):
    return backend.infer(batch)


def on_device(backend, batch):
    scores = backend.infer_on_device(torch.from_numpy(batch).cuda())
    assert scores.is_cuda
    return scores.cpu().numpy()


@pytest.fixture(params=[on_host, on_device])
def infer(request):
    return request.param


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_batches_of_any_size(network, infer, size):
    scores = infer(network, contract_batch(size))
    assert (scores.shape, scores.dtype) == ((size, 2, 8, 8), np.float32)
    np.testing.assert_allclose(scores, contract_result(contract_batch(size)), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_networks_of_fixed_batch_get_parts(files, infer, size):
    with opened(files["fixed"]) as fixed:
        assert fixed.fixed_batch == 2
        scores = infer(fixed, contract_batch(size))
        assert scores.shape == (size, 2, 8, 8)
        np.testing.assert_allclose(scores, contract_result(contract_batch(size)), atol=1e-5)


def test_sizes_may_alternate(network, infer):
    for size in [4, 1, 3, 3, 3, 1, 4, 4, 4, 5, 1]:
        batch = contract_batch(size, size)
        np.testing.assert_allclose(infer(network, batch), contract_result(batch), atol=1e-5)


def test_host_and_device_may_alternate(network):
    for size in [2, 2, 2, 4, 4, 1]:
        batch = contract_batch(size, size)
        for run in (on_host, on_device, on_device, on_host, on_host, on_host):
            np.testing.assert_allclose(run(network, batch), contract_result(batch), atol=1e-5)


def test_pictures_of_a_batch_do_not_mix(network, infer):
    together = infer(network, contract_batch(4))
    alone = np.concatenate([infer(network, contract_batch(4)[index : index + 1]) for index in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_input_is_not_changed(network):
    given = contract_batch(3)
    network.infer(given)
    np.testing.assert_array_equal(given, contract_batch(3))
    tensor = torch.from_numpy(contract_batch(3)).cuda()
    network.infer_on_device(tensor)
    np.testing.assert_array_equal(tensor.cpu().numpy(), contract_batch(3))


def test_output_on_the_host_belongs_to_the_caller(network):
    first = network.infer(contract_batch(2))
    kept = first.copy()
    network.infer(contract_batch(2, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 7
    np.testing.assert_array_equal(network.infer(contract_batch(2)), kept)


def test_many_runs_give_the_same(network, infer):
    first = infer(network, contract_batch(2))
    for _ in range(50):
        np.testing.assert_array_equal(infer(network, contract_batch(2)), first)


def test_closed_networks_do_not_run(files):
    made = opened(files["dynamic"])
    for _ in range(2):
        with pytest.raises(EngineError, match=r"^network 'contract\..*' is not open: call open\(\) before infer\(\)$"):
            made.infer(contract_batch(1))
        with pytest.raises(EngineError, match=r"is not open: call open\(\) before infer_on_device\(\)$"):
            made.infer_on_device(torch.from_numpy(contract_batch(1)).cuda())
        assert made.open() is made
        made.infer(contract_batch(1))
        made.close()
        made.close()


def test_networks_may_be_opened_again_and_twice(files, infer):
    made = opened(files["dynamic"])
    made.close()
    for _ in range(3):
        made.open().open()
        for _ in range(3):
            np.testing.assert_allclose(infer(made, contract_batch(1)), contract_result(contract_batch(1)), atol=1e-5)
        made.close()


def test_leaving_the_context_closes(files):
    with pytest.raises(KeyError), opened(files["dynamic"]) as backend:
        raise KeyError
    with pytest.raises(EngineError, match="is not open"):
        backend.infer(contract_batch(1))


def test_two_of_a_kind_do_not_mix(network, files, infer):
    with opened(files["dynamic"]) as other:
        for seed in range(4):
            mine, theirs = contract_batch(2, seed), contract_batch(2, 100 + seed)
            np.testing.assert_allclose(infer(other, theirs), contract_result(theirs), atol=1e-5)
            np.testing.assert_allclose(infer(network, mine), contract_result(mine), atol=1e-5)
    np.testing.assert_allclose(infer(network, contract_batch(1)), contract_result(contract_batch(1)), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 4, 8, 8), np.float32), np.zeros((2, 3, 8, 9), np.float32), np.zeros((2, 3, 8, 8), np.float16)],
)
def test_failed_runs_are_told_and_not_the_end(network, infer, wrong):
    with pytest.raises(EngineError, match=rf"failed on '{network.model.name}' with a batch of 2: .*expected float32"):
        infer(network, wrong)
    np.testing.assert_allclose(infer(network, contract_batch(1)), contract_result(contract_batch(1)), atol=1e-5)


def test_batches_elsewhere_are_refused(network):
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 3).cuda().permute(0, 3, 1, 2)):
        with pytest.raises(EngineError, match="expected contiguous on cuda:0"):
            network.infer_on_device(wrong)
    np.testing.assert_allclose(on_device(network, contract_batch(1)), contract_result(contract_batch(1)), atol=1e-5)


def test_it_says_where_it_runs(network):
    assert network.describe() == f"{network._loaded.library} on {torch.cuda.get_device_name()}, fp32"
