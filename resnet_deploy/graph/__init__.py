"""An ONNX graph and the questions asked of it: what it computes, what is in a file, how it is changed."""
