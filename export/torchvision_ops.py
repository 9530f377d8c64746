"""Lets timm be imported where torchvision's compiled part cannot be.

timm imports torchvision. PyPI's torchvision is built for CUDA; beside a CPU-only torch its extension does
not load, and its Python part then fails on operators that nobody declared. Nothing is computed with them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# A Library takes its declarations with it when it is collected, so it lives as long as the process.
_declared: list[torch.library.Library] = []


def declare_torchvision_ops() -> None:
    """Declare the operators torchvision's import asks for, where its own extension does not bring them."""
    if hasattr(torch.ops.torchvision, "nms") or _load_extension():
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _load_extension() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True
    for extension in sorted(Path(found.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            return False
    return hasattr(torch.ops.torchvision, "nms")
