"""Model repositories for NVIDIA's Triton Inference Server."""
