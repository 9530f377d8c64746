"""Values and rules of inspection; no I/O."""
