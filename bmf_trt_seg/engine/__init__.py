"""TensorRT engines: which library there is, building from ONNX, keeping what was built, looking inside."""
