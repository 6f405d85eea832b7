"""Towers into artifacts: `build` is the way in, `onnx` writes the graph, `parity` judges it."""
