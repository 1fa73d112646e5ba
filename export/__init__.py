"""From a checkpoint to a bundle: ONNX graphs, manifest and parity check."""
