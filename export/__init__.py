"""Offline conversion: a backbone becomes one served ONNX graph with a manifest beside it.

torch, timm and onnx live here only. Knows nothing of the orchestrator: the two meet in `manifest.json`.
"""
