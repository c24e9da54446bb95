"""Comparing an exported network with the one that it was made from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from factories import make_spec, save_onnx

from bmf_trt_seg.errors import ModelError
from bmf_trt_seg.models.check import agreement, check

SPEC = make_spec(("a", "b"), "softmax")
WEIGHTS = np.zeros((2, 3, 1, 1), np.float32)
WEIGHTS[0, 0], WEIGHTS[1, 1] = 1, 1
BATCH = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)


def test_scores_are_compared_by_value_and_by_class():
    expected = np.zeros((1, 2, 1, 4))
    expected[0, 1] = [1, -1, 2, -2]
    got = expected.copy()
    got[0, 1, 0, 1] = 0.5  # another class
    found = agreement(expected, got, "softmax")
    assert (found.max_difference, found.span, found.same_classes) == (1.5, 4.0, 0.75)
    assert str(found) == "largest difference 1.5, scores spanning 4; 75.000% of the pixels get the same class"


@pytest.mark.parametrize(("activation", "share"), [("sigmoid", 1.0), ("none", 0.5)])
def test_one_channel_has_two_classes(activation, share):
    expected, got = np.array([0.4, 0.7]).reshape(1, 1, 1, 2), np.array([0.6, 0.8]).reshape(1, 1, 1, 2)
    assert agreement(expected, got, activation).same_classes == share


def test_indices_have_no_differences():
    found = agreement(np.array([[[1, 2]]]), np.array([[[1, 3]]]), "index")
    assert math.isnan(found.max_difference)
    assert str(found) == "50.000% of the pixels get the same class"


def test_what_cannot_be_compared():
    with pytest.raises(ModelError, match=r"gives \(1, 2, 4, 4\), the network that it was made from \(1, 2, 8, 8\)"):
        agreement(np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 4, 4)), "softmax")
    with pytest.raises(ModelError, match=r"does not give finite numbers$"):
        agreement(np.zeros((1, 2, 1, 1)), np.full((1, 2, 1, 1), np.nan), "softmax")


def reference(weights, batch):
    return np.einsum("kc,nchw->nkhw", weights[:, :, 0, 0], batch)


def test_same_network_passes(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS)
    found = check(path, SPEC, lambda batch: reference(WEIGHTS, batch), {"noise": BATCH}, "fp32")
    assert found["noise"].same_classes == 1
    assert found["noise"].max_difference < 1e-6


def test_another_network_is_refused(tmp_path):
    other = WEIGHTS[:, [1, 0, 2]]
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS)
    with pytest.raises(ModelError, match=r"differs from the one that it was made from on noise: largest difference"):
        check(path, SPEC, lambda batch: reference(other, batch), {"noise": BATCH}, "fp32")


def test_scores_count_and_not_only_classes(tmp_path):
    """Doubled scores give the same classes, and other probabilities: that is no rounding."""
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS)
    with pytest.raises(ModelError, match=r"allowed are at most 0\.001 of the span, and at least 99\.9% of the pixels$"):
        check(path, SPEC, lambda batch: 2 * reference(WEIGHTS, batch), {"noise": BATCH}, "fp32")
    check(path, SPEC, lambda batch: 2 * reference(WEIGHTS, batch), {"noise": BATCH}, "qdq")
    check(path, SPEC, lambda batch: 2 * reference(WEIGHTS, batch), {"noise": BATCH}, "fp16", least=1.0)
