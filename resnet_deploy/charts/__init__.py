"""Charts as SVG, in pages and in files of their own."""
