"""Precision lives in the graph: FP32 ONNX in, FP16, BF16, INT8 or FP8 ONNX out. Works on any ResNet-like ONNX file.

from resnet_deploy.precision import Graph, QuantizeOptions, Target, observe, quantize

graph = Graph.read("resnet.onnx")
calibration = observe(graph, batches).calibration("entropy")  # batches(n) yields arrays of up to n images
quantized, placement = quantize(graph, calibration, QuantizeOptions(target=Target.TENSORRT))
quantized.save("resnet.int8.onnx")
"""

from resnet_deploy.graph.graph import Graph as Graph
from resnet_deploy.precision.calibrate import Calibration as Calibration
from resnet_deploy.precision.calibrate import observe as observe
from resnet_deploy.precision.cast import cast as cast
from resnet_deploy.precision.placement import Placement as Placement
from resnet_deploy.precision.placement import Target as Target
from resnet_deploy.precision.placement import place as place
from resnet_deploy.precision.quantize import QuantizeOptions as QuantizeOptions
from resnet_deploy.precision.quantize import quantize as quantize
