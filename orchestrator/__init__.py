"""Patchlight's orchestrator: PatchCore around Triton feature calls, behind the inspection API."""

__version__ = "0.1.0"
