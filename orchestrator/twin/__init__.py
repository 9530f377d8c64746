"""The twin: a real Triton on a machine without Docker, serving the shipped repository's graphs; loopback
only."""
