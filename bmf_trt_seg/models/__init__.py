"""Where networks come from: importers that make ONNX and a description, and the models known by name."""
