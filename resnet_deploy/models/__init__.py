"""Residual networks, exactly as their papers and published checkpoints have them."""
