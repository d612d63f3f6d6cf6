"""What several test files use; they never import from each other."""
