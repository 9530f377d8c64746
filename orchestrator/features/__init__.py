"""The seam to feature extraction: images in, token grids out, whoever computes them."""
