"""PyTorch's eager mode, which every other backend is measured against; with CUDA graphs and torch.compile as options."""
