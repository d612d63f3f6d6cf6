"""Python models that stand beside a network in a Triton repository. Each file is copied there as model.py."""
