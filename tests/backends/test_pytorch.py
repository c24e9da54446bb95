"""TorchScript and exported programs: what is compared with their descriptions, and how broken ones are told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from factories import make_spec

from bmf_trt_seg.backends.pytorch import PyTorchBackend
from bmf_trt_seg.errors import BackendUnavailable, EngineError, ModelError

ONE = np.zeros((1, 3, 8, 8), np.float32)


class Network(torch.nn.Module):
    """A convolution whose output is wrapped as asked for."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap
        self.conv = torch.nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.wrap(self.conv(x))


WRAPPED = {
    "tensor": lambda y: y,
    "dict": lambda y: {"aux": y * 0, "output": y},
    "tuple": lambda y: (y, y),
    "classifier": lambda y: y.mean((2, 3)),
    "bfloat16": lambda y: y.bfloat16(),
}


@pytest.fixture
def save(tmp_path):
    def save(ending=".pt", wrap="tensor", dtype=torch.float32):
        path = tmp_path / f"net{ending}"
        module, example = Network(WRAPPED[wrap]).eval().to(dtype), torch.zeros(2, 3, 8, 8, dtype=dtype)
        if ending == ".pt2":
            batch = torch.export.Dim("N")
            torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: batch},)), path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.jit.trace(module, example, strict=False).save(path)
        return path

    return save


def opened(path, spec=None, **options):
    return PyTorchBackend(path, spec or make_spec(activation="softmax"), **options).open()


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
@pytest.mark.parametrize("wrap", ["tensor", "dict"])
def test_output_may_be_a_tensor_or_stand_in_a_dict(save, ending, wrap):
    with opened(save(ending, wrap)) as network:
        scores = network.infer(ONE)
    assert (type(scores), scores.shape) == (np.ndarray, (1, 2, 8, 8))
    assert scores.any()


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_wrong_output_name_lists_those_there_are(save, ending):
    spec = make_spec(activation="softmax", output={"name": "masks"})
    with opened(save(ending, "dict"), spec) as network, pytest.raises(ModelError) as caught:
        network.infer(ONE)
    assert str(caught.value) == (
        f"model 'net{ending}' has no output 'masks', which its description names; it has: 'aux', 'output'"
    )


def test_other_outputs_are_refused(save):
    with opened(save(wrap="tuple")) as network, pytest.raises(ModelError) as caught:
        network.infer(ONE)
    assert str(caught.value) == "model 'net.pt' returns a tuple; expected a tensor or a dict of them"


def test_wrong_size_of_an_exported_program(save):
    with pytest.raises(
        ModelError, match=r"has the shape \[.*, 3, 8, 8\], its description says \['N', 3, 16, 8\] \(nchw\)"
    ):
        opened(save(".pt2"), make_spec(activation="softmax", input={"height": 16}))


def test_wrong_element_type_of_an_exported_program(save):
    with pytest.raises(ModelError) as caught:
        opened(save(".pt2"), make_spec(activation="softmax", input={"dtype": "uint8"}))
    assert str(caught.value) == "input 'x' of model 'net.pt2' takes float32, its description says uint8"


def test_wrong_element_type_of_torchscript_is_found_by_the_run(save):
    with opened(save()) as network, pytest.raises(EngineError) as caught:
        network.infer(ONE.astype(np.uint8))
    assert str(caught.value).startswith("PyTorch failed on 'net.pt' with a batch of 1: ")
    assert "\n" not in str(caught.value)


def test_half_precision_runs(save):
    with opened(save(dtype=torch.float16)) as network:
        assert network.infer(ONE.astype(np.float16)).dtype == np.float16


def test_element_types_that_numpy_does_not_have(save):
    with opened(save(wrap="bfloat16")) as network:
        assert network.infer(ONE).dtype == np.float32


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
@pytest.mark.parametrize("content", ["text", "", "half", "nothing", "another zip"])
def test_files_that_are_no_networks(save, ending, content, capfd, tmp_path):
    path = save(ending)
    if content == "nothing":
        path.unlink()
    elif content == "another zip":
        np.savez(tmp_path / "a.npz", a=1)
        path.write_bytes((tmp_path / "a.npz").read_bytes())
    else:
        whole = path.read_bytes()
        path.write_bytes({"text": b"hello", "": b"", "half": whole[: len(whole) // 2]}[content])
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        opened(path)
    message = str(caught.value)
    assert message.startswith(f"model '{path}' cannot be loaded by PyTorch (TorchScript or torch.export): ")
    assert "\n" not in message
    assert len(message.partition(": ")[2]) < 200
    if content != "another zip":
        reason = "no such file" if content == "nothing" else "the file is broken or of another kind"
        assert message.endswith(reason)
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", ["weights", "pickled"])
def test_files_that_torch_save_wrote(tmp_path, what):
    module = torch.nn.Conv2d(3, 2, 1)
    torch.save(module.state_dict() if what == "weights" else module, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"cannot be loaded by PyTorch .*: [^.]*constants\.pkl: file not found$"):
        opened(tmp_path / "net.pt")


def test_no_gradients_are_kept(save):
    with opened(save()) as network:
        network.infer(ONE)
        assert all(parameter.grad is None for parameter in network._module.parameters())


def test_cuda_without_cuda(save, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable) as caught:
        opened(save(), device="cuda:0")
    assert str(caught.value) == "device 'cuda:0': PyTorch finds no CUDA device here; use device 'cpu'"


def test_threads(save):
    with opened(save(), threads=2):
        assert torch.get_num_threads() == 2
    with opened(save(), threads=1) as network:
        assert torch.get_num_threads() == 1
        assert network.describe() == "pytorch on the CPU"
