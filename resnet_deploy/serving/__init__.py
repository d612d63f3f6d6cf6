"""What leaves this package to work elsewhere: Triton repositories, C++ projects, embeddings of many images."""
