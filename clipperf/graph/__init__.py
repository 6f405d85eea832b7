"""ONNX graphs: traced, filled with weights, and changed by hand."""
