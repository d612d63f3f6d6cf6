"""What this machine's processor can do: INT8 kernels differ by it."""

from __future__ import annotations

from resnet_deploy._machine import exact_int8

# Where they saturate, the same file answers otherwise, and what is judged would be the processor.
EXACT_INT8 = exact_int8()
INT8 = "openvino:int8" if EXACT_INT8 else "onnxruntime:int8,simulate"
