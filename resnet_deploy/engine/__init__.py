"""TensorRT's three packages behind one code path: graphs into plans, and what is really in a plan."""
