"""PyTorch to ONNX and description: heads, precisions, open sizes, limits; networks of libraries with random weights."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import numpy as np
import onnx
import pytest
import torch

from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend, tensors_of
from bmf_trt_seg.calibration_frames import calibration_data
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, ModelError, StreamError
from bmf_trt_seg.models import onnx_export
from bmf_trt_seg.models.datasets import ADE20K, PASCAL_VOC
from bmf_trt_seg.models.export import ARCHITECTURES, Made, Settings, default_name, export, made_by_name
from bmf_trt_seg.models.labels import Labels
from bmf_trt_seg.models.random_weights import pictures
from bmf_trt_seg.models.weights import read_weights
from bmf_trt_seg.spec import ModelSpec, spec_path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for a core, beside other tests, cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def has(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed: pip install '.[export]'")


class Tiny(torch.nn.Module):
    """Scores of `classes` channels in half the size of the picture."""

    def __init__(self, classes: int = 3, wrap: Any = lambda scores: scores) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, classes, 3, padding=1, stride=2)
        self.inner = torch.nn.Sequential(self.layers[0], torch.nn.ReLU(), self.layers[1])
        self.wrap = wrap

    def forward(self, input: torch.Tensor) -> Any:
        return self.wrap(self.inner(input))


def made(network: torch.nn.Module | None = None, labels: Labels | None = None, **fields: Any) -> Made:
    values = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5), "source": "a test"}
    return Made("tiny", network or Tiny(), labels, (32, 48), **{**values, **fields})


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    with OnnxRuntimeBackend(path, ModelSpec.read(spec_path(path))) as backend:
        return backend.infer(batch)


def batch(count: int = 1, size_hw: tuple[int, int] = (32, 48)) -> np.ndarray:
    return pictures(count, 7, size_hw).numpy()


def scores(network: torch.nn.Module, inputs: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return network(torch.from_numpy(inputs))


# --- what is written --------------------------------------------------------------------------------------------------


def test_network_and_description_are_written(tmp_path):
    labels = Labels(("background", "cat", "dog"), ("#000000", "#ff0000", "#00ff00"), 0)
    result = export(made(labels=labels, license="MIT"), tmp_path / "net.onnx", Settings(resize="letterbox"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.onnx"]
    spec = ModelSpec.read(tmp_path / "net.json")
    assert spec == result.spec
    assert (spec.labels, spec.colors, spec.background) == (list(labels.names), list(labels.palette), 0)
    assert (spec.input.height, spec.input.width, spec.input.resize) == (32, 48, "letterbox")
    assert (spec.input.mean, spec.input.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    assert (spec.output.activation, spec.source, spec.license) == ("softmax", "a test", "MIT")
    network = onnx.load(tmp_path / "net.onnx")
    assert network.opset_import[0].version == 17
    assert OnnxNetwork(tmp_path / "net.onnx").inputs[0].shape == (1, 3, 32, 48)
    assert np.allclose(run(tmp_path / "net.onnx", batch()), scores(Tiny(), batch()), atol=1e-5)
    assert list(result.agreements) == ["a random picture"]


def test_probabilities_from_the_graph(tmp_path):
    result = export(made(), tmp_path / "net.onnx", Settings(head="softmax"))
    assert result.spec.output.activation == "none"
    got = run(tmp_path / "net.onnx", batch())
    assert np.allclose(got.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(got, scores(Tiny(), batch()).softmax(dim=1), atol=1e-5)


def test_indices_from_the_graph_are_of_enlarged_scores(tmp_path):
    result = export(made(), tmp_path / "net.onnx", Settings(head="argmax"))
    assert result.spec.output.activation == "index"
    got = run(tmp_path / "net.onnx", batch())
    assert (got.shape, got.dtype) == ((1, 32, 48), np.int32)
    large = torch.nn.functional.interpolate(scores(Tiny(), batch()), (32, 48), mode="bilinear")
    assert np.mean(got == large.argmax(dim=1).numpy()) > 0.999


def test_one_channel_is_for_a_sigmoid(tmp_path):
    assert export(made(Tiny(1)), tmp_path / "net.onnx", Settings()).spec.output.activation == "sigmoid"
    result = export(made(Tiny(1)), tmp_path / "net.onnx", Settings(head="softmax"))
    assert (result.spec.output.activation, result.spec.labels) == ("none", ["background", "foreground"])
    assert np.allclose(run(tmp_path / "net.onnx", batch()), scores(Tiny(1), batch()).sigmoid(), atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [lambda scores: {"out": scores, "aux": scores * 0}, lambda scores: (scores, scores * 0)],
    ids=["dict", "tuple"],
)
def test_wrapped_scores_are_found(tmp_path, wrap):
    export(made(Tiny(wrap=wrap)), tmp_path / "net.onnx", Settings())
    assert np.allclose(run(tmp_path / "net.onnx", batch()), scores(Tiny(), batch()), atol=1e-5)


def test_open_sizes(tmp_path):
    result = export(made(), tmp_path / "net.onnx", Settings(dynamic_batch=True, dynamic_size=True, head="argmax"))
    assert OnnxNetwork(tmp_path / "net.onnx").inputs[0].shape == ("N", 3, "H", "W")
    assert list(result.agreements) == ["a random picture", "a batch of 3", "another size"]
    assert run(tmp_path / "net.onnx", batch(4)).shape == (4, 32, 48)


class Frozen(Tiny):
    """It takes its batch for a constant when it is traced."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found = super().forward(input)
        return found + torch.zeros(int(input.shape[0]), 1, 1, 1)


def test_size_that_only_seems_open_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gives \(2, 3, 16, 24\), the network that it was made from \(1, 3,"):
        export(made(Frozen()), tmp_path / "net.onnx", Settings(dynamic_batch=True))
    assert list(tmp_path.iterdir()) == []


def test_half_precision_keeps_its_input_and_output(tmp_path):
    export(made(), tmp_path / "full.onnx", Settings())
    result = export(made(), tmp_path / "half.onnx", Settings(precision="fp16"))
    assert [kind for _, _, kind, _ in tensors_of(tmp_path / "half.onnx")] == ["tensor(float)"] * 2
    weights = onnx.load(tmp_path / "half.onnx").graph.initializer
    assert {weight.data_type for weight in weights if len(weight.dims) == 4} == {onnx.TensorProto.FLOAT16}
    assert result.spec.input.dtype == "float32"
    assert 0 < np.abs(run(tmp_path / "half.onnx", batch()) - run(tmp_path / "full.onnx", batch())).max() < 0.01


def test_quantized_with_frames_of_a_video(tmp_path):
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=6)
    result = export(
        made(),
        tmp_path / "net.onnx",
        Settings(precision="qdq", least_agreement=0.8),
        picture=lambda spec: next(calibration_data(clip, spec, 1).batches(1)),
        picture_name="'clip.mp4'",
        calibration=lambda spec: calibration_data(clip, spec, 4),
    )
    assert OnnxNetwork(tmp_path / "net.onnx").is_quantized
    assert list(result.agreements) == ["a random picture", "'clip.mp4'", "'clip.mp4', qdq"]
    assert result.agreements["'clip.mp4', qdq"].same_classes > 0.9


# --- what is refused --------------------------------------------------------------------------------------------------


def test_network_that_comes_out_another_one_is_not_written(tmp_path, monkeypatch):
    """An exporter's mistake: the file has other weights than the network."""
    (tmp_path / "net.onnx").write_bytes(b"what was there")

    def spoiled(network: torch.nn.Module, model: Path, *others: Any, **flags: Any) -> str:
        way: str = onnx_export.export_onnx(network, model, *others, **flags)
        network = onnx.load(model)
        weight = max(network.graph.initializer, key=lambda one: len(one.raw_data))
        weight.raw_data = bytes(len(weight.raw_data))
        onnx.save(network, model)
        return way

    exporting = types.SimpleNamespace(**{**vars(onnx_export), "export_onnx": spoiled})
    monkeypatch.setitem(sys.modules, "bmf_trt_seg.models.onnx_export", exporting)
    with pytest.raises(ModelError, match="differs from the one that it was made from on a random picture"):
        export(made(), tmp_path / "net.onnx", Settings())
    assert (tmp_path / "net.onnx").read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


class Indices(Tiny):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).argmax(dim=1)


@pytest.mark.parametrize(
    ("network", "fields", "settings", "kind", "message"),
    [
        (Tiny(), {"labels": Labels(("a", "b"))}, {}, ConfigError, "--labels names 2 classes, the network has 3"),
        (Tiny(1), {}, {"head": "argmax"}, ConfigError, "--argmax: 'tiny' has one channel; --softmax makes it a"),
        (
            Tiny(),
            {},
            {"head": "softmax", "activation": "none"},
            ConfigError,
            "--softmax is for scores that are no probabilities yet, not activation 'none'",
        ),
        (Indices(), {}, {}, ConfigError, "'tiny' gives class indices: name the classes with --labels"),
        (Indices(), {}, {"head": "argmax"}, ConfigError, "'tiny' gives class indices already: leave --argmax out"),
        (
            Tiny(wrap=lambda s: {"x": s}),
            {},
            {},
            ModelError,
            "it returns dict, expected a tensor, a tuple or a dictionary",
        ),
        (Tiny(wrap=torch.flatten), {}, {}, ModelError, "expected scores (1, C, h, w) or class indices (1, H, W)"),
        (
            torch.nn.Conv2d(4, 2, 1),
            {},
            {},
            ModelError,
            "'tiny' does not run on pictures of 48x32: Given groups=1, weight of size [2, 4, 1, 1]",
        ),
        (Tiny(), {}, {"precision": "qdq"}, ConfigError, "give --qdq VIDEO"),
    ],
)
def test_what_cannot_be_exported(tmp_path, network, fields, settings, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        export(made(network, **fields), tmp_path / "net.onnx", Settings(**settings))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(StreamError, match=r"nosuch/net\.onnx' cannot be written: No such file or directory$"):
        export(made(), tmp_path / "nosuch" / "net.onnx", Settings())


def test_names_of_files():
    assert default_name("fcn_resnet50", "none", "fp32") == "fcn_resnet50.onnx"
    assert default_name("fcn_resnet50", "softmax", "fp16") == "fcn_resnet50.softmax.fp16.onnx"


# --- networks by name -------------------------------------------------------------------------------------------------


def test_every_name_has_labels_and_a_size():
    assert len(ARCHITECTURES) == 5 + 12
    assert {len(known.data_set.labels) for known in ARCHITECTURES.values()} == {19, 21, 150}
    assert ARCHITECTURES["segformer-b5"].size_hw == (640, 640)
    assert ARCHITECTURES["segformer-b3-cityscapes"].weights.endswith("segformer-b3-finetuned-cityscapes-1024-1024")


def test_unknown_name():
    with pytest.raises(
        ConfigError, match=r"^there is no network 'fcn_resnet5' to export; did you mean 'fcn_resnet50'\?"
    ):
        made_by_name("fcn_resnet5", "none")


@pytest.mark.parametrize(
    ("name", "library"), [("lraspp_mobilenet_v3_large", "torchvision"), ("segformer-b0", "transformers")]
)
def test_library_that_is_missing(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    message = f"exporting networks wants the package '{library}': pip install 'bmf-trt-seg[export]'"
    with pytest.raises(BackendUnavailable, match=f"^{re.escape(message)}$"):
        made_by_name(name, "none")


@pytest.fixture(scope="session")
def lraspp() -> Made:
    return made_by_name("lraspp_mobilenet_v3_large", "none", size_hw=(64, 96))


@has("torchvision")
def test_torchvision_network_is_exported_and_runs(tmp_path, lraspp):
    result = export(lraspp, tmp_path / "net.onnx", Settings(head="argmax", dynamic_batch=True))
    assert result.spec.labels == list(PASCAL_VOC.labels)
    assert "RANDOM WEIGHTS" in ModelSpec.read(tmp_path / "net.json").source
    assert result.spec.license == ""
    found = run(tmp_path / "net.onnx", batch(2, (64, 96)))
    assert found.shape == (2, 64, 96)
    assert len(np.unique(found)) >= 4  # settled: one class does not fill the picture


@has("torchvision")
def test_torchvision_agrees_on_labels(lraspp):
    from torchvision.models import get_model_weights

    for name in ("fcn_resnet101", "lraspp_mobilenet_v3_large"):
        weights = get_model_weights(name).DEFAULT
        assert [label.strip("_") for label in weights.meta["categories"]] == list(PASCAL_VOC.labels)
        assert ARCHITECTURES[name].weights.endswith(weights.name)


@has("transformers")
@pytest.mark.timeout(400)  # the import of transformers alone takes long on a busy machine
def test_segformer_is_exported_and_runs(tmp_path):
    network = made_by_name("segformer-b0", "none", size_hw=(64, 64))
    result = export(network, tmp_path / "net.onnx", Settings())
    assert result.spec.labels == list(ADE20K.labels)
    assert result.spec.background is None
    assert run(tmp_path / "net.onnx", batch(1, (64, 64))).shape == (1, 150, 16, 16)
    assert result.agreements["a random picture"].same_classes == 1


@has("transformers")
@pytest.mark.parametrize(("variant", "millions"), [("b0", 3.75), ("b1", 13.7), ("b2", 27.5)])
def test_variants_have_the_size_that_the_paper_says(variant, millions):
    """Table 6 of Xie et al.: encoder and decoder, for the 150 classes of ADE20K."""
    network = ARCHITECTURES[f"segformer-{variant}"].create(150)
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@has("torchvision")
def test_weights_of_a_file(tmp_path, lraspp):
    torch.save(lraspp.network.state_dict(), tmp_path / "net.pth")
    again = made_by_name("lraspp_mobilenet_v3_large", str(tmp_path / "net.pth"))
    assert (again.labels, again.size_hw, again.warning) == (lraspp.labels, (520, 520), "")
    assert again.source == "torchvision's lraspp_mobilenet_v3_large, weights 'net.pth'"
    assert torch.equal(scores(again.network, batch())["out"], scores(lraspp.network, batch())["out"])


@has("torchvision")
def test_weights_for_other_classes_want_labels(tmp_path):
    network = ARCHITECTURES["lraspp_mobilenet_v3_large"].create(2)
    file = tmp_path / "net.pth"
    torch.save(network.state_dict(), file)
    with pytest.raises(ConfigError, match=r"are for 2 classes: name them, as in --labels background,cat$"):
        made_by_name("lraspp_mobilenet_v3_large", str(file))
    with pytest.raises(ConfigError, match=r"^--labels names 3 classes, the network has 2$"):
        made_by_name("lraspp_mobilenet_v3_large", str(file), Labels.listed(["a", "b", "c"]))
    labels = Labels.listed(["background", "cat"])
    assert made_by_name("lraspp_mobilenet_v3_large", str(file), labels).labels == labels


@has("torchvision")
def test_weights_of_another_network(tmp_path):
    torch.save(Tiny().state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        ModelError, match=r"net\.pth' do not fit lraspp_mobilenet_v3_large: \d+ of \d+ tensors are missing"
    ):
        made_by_name("lraspp_mobilenet_v3_large", str(tmp_path / "net.pth"))


@has("transformers", "safetensors")
@pytest.mark.timeout(400)
def test_folder_of_hugging_face(tmp_path):
    """Weights under their published names, which are not those of today's modules; labels of the folder."""
    network = ARCHITECTURES["segformer-b0"].create(2)
    network.config.id2label = {0: "background", 1: "cat"}
    network.save_pretrained(tmp_path)
    assert any("encoder.block.0.0.attention.self.query" in name for name in read_weights(tmp_path))
    found = made_by_name("segformer-b0", str(tmp_path))
    assert found.labels == Labels(("background", "cat"), (), 0)
    pairs = zip(found.network.state_dict().items(), network.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)
    torch.save(Tiny().state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        ModelError, match=r"do not fit segformer-b0: \d+ of \d+ tensors are missing, .*not of this network"
    ):
        made_by_name("segformer-b0", str(tmp_path / "net.pth"))


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every connection is refused, and the caches are empty; where torch keeps weights."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("urllib.request._opener", None)  # it would keep the proxies for tests that come after
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@has("torchvision")
def test_published_weights_without_a_network(no_network, lraspp):
    with pytest.raises(StreamError, match="the weights of 'lraspp_mobilenet_v3_large' cannot be downloaded") as caught:
        made_by_name("lraspp_mobilenet_v3_large", "default")
    assert "--weights none does without" in str(caught.value)
    assert "\n" not in str(caught.value)
    no_network.mkdir(parents=True, exist_ok=True)
    torch.save(lraspp.network.state_dict(), no_network / "lraspp_mobilenet_v3_large-d234d4ea.pth")
    found = made_by_name("lraspp_mobilenet_v3_large", "default")  # as somebody has put it there
    assert found.license == "BSD-3-Clause"
    assert torch.equal(scores(found.network, batch())["out"], scores(lraspp.network, batch())["out"])


@has("huggingface_hub", "transformers")
@pytest.mark.usefixtures("no_network")
def test_checkpoint_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    repository = "nvidia/segformer-b0-finetuned-ade-512-512"
    with pytest.raises(StreamError, match=f"the weights '{repository}' are not in the Hugging Face cache") as caught:
        made_by_name("segformer-b0", "default")
    assert "\n" not in str(caught.value)
    snapshot = tmp_path / "hf" / "models--nvidia--segformer-b0-finetuned-ade-512-512" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1234")
    network = ARCHITECTURES["segformer-b0"].create(150)
    torch.save(network.state_dict(), snapshot / "pytorch_model.bin")
    found = made_by_name("segformer-b0", "default")
    assert found.warning == "licence of these weights: NVIDIA Source Code License for SegFormer (non-commercial)"
    assert all(torch.equal(a, b) for a, b in zip(found.network.parameters(), network.parameters(), strict=True))
