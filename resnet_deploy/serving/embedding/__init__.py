"""Many images into one table, on one machine or on a Ray cluster."""
