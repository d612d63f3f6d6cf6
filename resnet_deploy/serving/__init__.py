"""What leaves this package to work elsewhere: Triton repositories, embeddings of many images."""
