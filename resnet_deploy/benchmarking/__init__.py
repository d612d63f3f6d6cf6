"""How fast? Measurement, the machine that it was measured on, and the report."""
