"""Layers as TensorRT's engine inspector tells of them; whole engines are inspected in the tests of the command line."""

from __future__ import annotations

import pytest

from bmf_trt_seg.engine.inspection import LayerRow, layer_row

OPEN = "N/A due to dynamic shapes"


@pytest.mark.parametrize(
    ("outputs", "weights", "precision"),
    [
        (["Row major linear FP32"], None, "fp32"),
        (["Channel major FP16 format where channel % 8 == 0"], "Float", "fp16"),
        (["Thirty-two wide channel vectorized row major Int8 format."], None, "int8"),
        (["Half"], None, "fp16"),
        (["Float", "Half", "Float"], None, "fp32/fp16"),
        ([OPEN], "Half", "fp16"),
        ([OPEN], None, ""),
        ([], None, ""),
    ],
)
def test_precision_of_a_layer(outputs, weights, precision):
    layer = {
        "Name": "conv1 +\nrelu1",
        "LayerType": "CaskConvolution",
        "Outputs": [{"Name": "Half an output", "Dimensions": [1], "Format/Datatype": text} for text in outputs],
    }
    if weights:
        layer["Weights"] = {"Type": weights, "Count": 3}
    assert layer_row(layer) == LayerRow("conv1 + relu1", "CaskConvolution", precision)


def test_layers_of_which_there_is_only_a_name():
    assert layer_row("conv1 + relu1") == LayerRow("conv1 + relu1", "", "")
