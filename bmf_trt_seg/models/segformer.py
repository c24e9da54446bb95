"""SegFormer (Xie et al., 2021) as the package transformers has it, trained by NVIDIA on ADE20K and on Cityscapes."""

from __future__ import annotations

import contextlib
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bmf_trt_seg.errors import SegError, StreamError
from bmf_trt_seg.models.architecture import Architecture, imported
from bmf_trt_seg.models.datasets import ADE20K, CITYSCAPES, DataSet
from bmf_trt_seg.models.torchvision_package import import_torchvision
from bmf_trt_seg.models.weights import read_weights

__all__ = ["SEGFORMER"]

_FILES = ("model.safetensors", "pytorch_model.bin")
_REACH_SECONDS = 15.0
_LICENSE = "NVIDIA Source Code License for SegFormer (non-commercial)"


@dataclass(frozen=True)
class _Variant:
    """One line of the paper's table 6: blocks and channels of each stage of the encoder, channels of the decoder."""

    depths: tuple[int, int, int, int]
    hidden_sizes: tuple[int, int, int, int]
    decoder: int


_WIDE = (64, 128, 320, 512)
_VARIANTS = {
    "b0": _Variant((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": _Variant((2, 2, 2, 2), _WIDE, 256),
    "b2": _Variant((3, 4, 6, 3), _WIDE, 768),
    "b3": _Variant((3, 4, 18, 3), _WIDE, 768),
    "b4": _Variant((3, 8, 27, 3), _WIDE, 768),
    "b5": _Variant((3, 6, 40, 3), _WIDE, 768),
}


def _create(variant: _Variant, classes: int) -> Any:
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()  # transformers does it, too, and would stumble
    imported("transformers")
    config = imported("transformers.models.segformer.configuration_segformer").SegformerConfig(
        depths=list(variant.depths),
        hidden_sizes=list(variant.hidden_sizes),
        decoder_hidden_size=variant.decoder,
        num_labels=classes,
    )
    with contextlib.suppress(Exception):  # the plain arithmetic, where there is a choice: it is what ONNX can say
        config._attn_implementation = "eager"
    return imported("transformers.models.segformer.modeling_segformer").SegformerForSemanticSegmentation(config)


def _published(repository: str) -> Mapping[str, Any]:
    """From the Hugging Face cache if they are in it, else downloaded into it."""
    hub, errors = imported("huggingface_hub"), imported("huggingface_hub.utils")
    for local_only in (True, False):
        if not local_only:
            _check_reachable(repository, imported("huggingface_hub.constants"))
        for file in _FILES:
            try:
                return read_weights(Path(hub.hf_hub_download(repository, file, local_files_only=local_only)))
            except errors.LocalEntryNotFoundError as error:
                if not local_only:
                    raise StreamError(_unavailable(repository, error)) from error
            except errors.EntryNotFoundError:
                continue
            except SegError:
                raise
            except Exception as error:  # its HTTP library's, which has changed between versions
                raise StreamError(_unavailable(repository, error)) from error
    raise StreamError(_unavailable(repository, f"it has none of {', '.join(_FILES)}"))


def _renamed(network: Any, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Published files have the names that transformers' first version had; it knows itself what it calls them now.

    What it has no place for keeps its name.
    """
    names = network.state_dict()
    if all(name in names for name in weights):
        return weights
    logging = imported("transformers.utils.logging")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        loaded, told = type(network).from_pretrained(
            None, config=network.config, state_dict=dict(weights), output_loading_info=True
        )
    except Exception:  # they do not fit, and whoever fills the network with them says so in one line
        return weights
    found = {name: value for name, value in loaded.state_dict().items() if name not in told["missing_keys"]}
    return {**found, **{name: weights[name] for name in told["unexpected_keys"] if name in weights}}


def _check_reachable(repository: str, constants: Any) -> None:
    """StreamError where there is no network: the library would try for half a minute."""
    if constants.HF_HUB_OFFLINE:
        raise StreamError(_unavailable(repository, "HF_HUB_OFFLINE is set"))
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers
    except (OSError, ValueError) as error:
        raise StreamError(_unavailable(repository, getattr(error, "reason", error))) from error


def _unavailable(repository: str, reason: object) -> str:
    return (
        f"the weights '{repository}' are not in the Hugging Face cache and cannot be downloaded "
        f"({' '.join(str(reason).split())[:160]}): get them elsewhere and give their folder as --weights FOLDER; "
        "--weights none does without"
    )


def _architecture(variant: str, data_set: DataSet, size: int, trained: str) -> Architecture:
    repository = f"nvidia/segformer-{variant}-finetuned-{trained}-{size}-{size}"
    return Architecture(
        name=f"segformer-{variant}" + ("" if data_set is ADE20K else f"-{data_set.name}"),
        library="transformers",
        data_set=data_set,
        size_hw=(size, size),
        weights=f"Hugging Face's {repository}",
        license=_LICENSE,
        create=partial(_create, _VARIANTS[variant]),
        published=partial(_published, repository),
        renamed=_renamed,
        last_layer=lambda network: network.decode_head.classifier,
    )


SEGFORMER: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        *(_architecture(variant, ADE20K, 640 if variant == "b5" else 512, "ade") for variant in _VARIANTS),
        *(_architecture(variant, CITYSCAPES, 1024, "cityscapes") for variant in _VARIANTS),
    )
}
"""'segformer-b0' to 'segformer-b5' for ADE20K, the same with '-cityscapes' for Cityscapes."""
