"""What leaves the toolkit to work elsewhere: embeddings of many images."""
