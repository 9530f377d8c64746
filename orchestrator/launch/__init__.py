"""Starts things on one machine: the export, Triton, the demo, the API. Knows processes, not HTTP."""
