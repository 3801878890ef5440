"""From a checkpoint to one ONNX file."""
