"""What leaves this package to be embedded by others."""
