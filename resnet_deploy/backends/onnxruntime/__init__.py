"""ONNX Runtime, on the CPU or with its CUDA execution provider."""
