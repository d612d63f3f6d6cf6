"""A C++ project that runs a bundle."""
