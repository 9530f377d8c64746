"""PatchCore in NumPy: embeddings and distances in, scores and regions out. Pure and synchronous; no I/O."""
