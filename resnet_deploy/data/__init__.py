"""Real images for verification and measurement: folders, .npz files and the digits, as batches of numpy arrays."""
