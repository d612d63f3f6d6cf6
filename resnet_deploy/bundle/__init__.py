"""The folder that holds a model's artifacts: what is in it, how it changes, and a bundle that is open and can be run."""
