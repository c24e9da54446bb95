"""Files of weights: which are read, which are refused, and whether they fit."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from bmf_trt_seg.errors import ConfigError, ModelError, StreamError  # noqa: E402
from bmf_trt_seg.models.weights import classes_in, fill, labels_beside, read_weights  # noqa: E402


def network(classes: int = 2) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, classes, 1), torch.nn.BatchNorm2d(classes))


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"network.{name}": value for name, value in state.items()},
    ],
    ids=["plain", "checkpoint", "parallel", "wrapped"],
)
def test_pickled_weights_are_read(tmp_path, wrapped):
    state = network().state_dict()
    torch.save(wrapped(state), tmp_path / "net.pth")
    assert same(read_weights(tmp_path / "net.pth"), state)


def test_safetensors_and_folders_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    state = network().state_dict()
    safetensors.save_file(state, str(tmp_path / "model.safetensors"))
    assert same(read_weights(tmp_path / "model.safetensors"), state)
    assert same(read_weights(tmp_path), state)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="are damaged, or no safetensors file"):
        read_weights(tmp_path)


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("it-ran"),)


def test_code_in_weights_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, "net.pth")
    message = "weights 'net.pth' holds more than tensors, whose code is not run here; save its state_dict() alone"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        read_weights(pathlib.Path("net.pth"))
    assert not pathlib.Path("it-ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 30, b"PK\x03\x04 and then nothing"], ids=["empty", "text", "zip"]
)
def test_what_holds_no_weights(tmp_path, content):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"^weights '.*net\.pth' are damaged, or no file of weights$"):
        read_weights(tmp_path / "net.pth")


def test_other_things_in_the_place_of_weights(tmp_path):
    with pytest.raises(StreamError, match=r"^weights '.*nosuch\.pth' do not exist$"):
        read_weights(tmp_path / "nosuch.pth")
    with pytest.raises(
        StreamError, match=r"holds no weights: expected model\.safetensors or pytorch_model\.bin in it$"
    ):
        read_weights(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds no weights: expected names and tensors"):
        read_weights(tmp_path / "list.pth")


def test_weights_get_into_the_network():
    given, target = network(), network()
    weights = {**given.state_dict(), "aux_classifier.0.weight": torch.zeros(1)}
    del weights["1.num_batches_tracked"]  # as old files lack it
    fill(target, weights, "net", "net.pth")
    assert torch.equal(target[0].weight, given[0].weight)
    assert classes_in(weights, "0") == 2
    assert classes_in(weights, "7") is None


def test_weights_that_do_not_fit_say_what():
    weights = network(5).state_dict()
    del weights["0.bias"]
    weights["head.weight"] = torch.zeros(1)
    message = (
        "weights 'net.pth' do not fit net: 1 of 7 tensors are missing, as '0.bias'; 1 are not of this network, as "
        "'head.weight'; 5 have another shape, as '0.weight': (5, 3, 1, 1), expected (2, 3, 1, 1)"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        fill(network(2), weights, "net", "net.pth")


def test_labels_of_a_folder(tmp_path):
    assert labels_beside(tmp_path) is None
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"id2label": {"1": "bed ", "0": "wall", "10": "sky"}}))
    assert labels_beside(tmp_path) == ["wall", "bed", "sky"]
    config.write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert labels_beside(tmp_path) is None
    config.write_text("{")
    with pytest.raises(ConfigError, match="is no configuration of a network"):
        labels_beside(tmp_path)
