"""The array types every module speaks; axes are letters (B batch, N patches, M bank rows, D dim, H×W, R×C, K)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
HalfArray: TypeAlias = NDArray[np.float16]
IndexArray: TypeAlias = NDArray[np.int64]
SpanArray: TypeAlias = NDArray[np.float64]
MaskArray: TypeAlias = NDArray[np.bool_]
ImageArray: TypeAlias = NDArray[np.uint8]
