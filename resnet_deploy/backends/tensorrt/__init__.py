"""TensorRT, TensorRT-RTX and the lean runtime: a plan, run on its GPU."""
