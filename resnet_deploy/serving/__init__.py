"""What other programs load as it is."""
