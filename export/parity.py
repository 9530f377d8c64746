"""Measures how far an exported graph is from its source, and refuses what is too far.

Compares before the last cast, where an error is an error of the graph, and after it, where it is what a
server answers. Knows ONNX Runtime and arrays; the source is any callable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from export.errors import ParityRefused

ImageArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
# Tokens before the last cast: (B, H, W, 3) uint8 -> (B, N, D) float32.
TokenSource = Callable[[ImageArray], FloatArray]

MAX_ABS_FP32 = 1e-4
MIN_TOKEN_COSINE = 0.9999
# A batch of one and a larger one, so that an axis baked at either would show.
_BATCHES = (1, 3)


@dataclass(frozen=True, slots=True)
class Parity:
    """Figures over every token of every probe image.

    max_abs_fp32: largest absolute difference before the last cast. min_token_cosine: smallest cosine between
    a source token and the served float16 token.
    """

    max_abs_fp32: float
    min_token_cosine: float
    images: int
    batches: tuple[int, ...]
    reference: str

    def as_json(self) -> dict[str, Any]:
        """Give the manifest's `parity`."""
        return {
            "max_abs_fp32": self.max_abs_fp32,
            "min_token_cosine": self.min_token_cosine,
            "images": self.images,
            "batches": list(self.batches),
            "reference": self.reference,
            "tolerance": {"max_abs_fp32": MAX_ABS_FP32, "min_token_cosine": MIN_TOKEN_COSINE},
        }

    def require(self) -> None:
        """Raise ParityRefused where a figure is out of tolerance, NaN included."""
        if not self.max_abs_fp32 <= MAX_ABS_FP32:
            raise ParityRefused(
                f"Parity refused: the ONNX graph differs from {self.reference} by {self.max_abs_fp32:.2e} "
                f"before its last cast; {MAX_ABS_FP32:.0e} is allowed."
            )
        if not self.min_token_cosine >= MIN_TOKEN_COSINE:
            raise ParityRefused(
                f"Parity refused: the worst served token has cosine {self.min_token_cosine:.6f} with "
                f"{self.reference}; {MIN_TOKEN_COSINE} is needed."
            )


def measure_parity(
    source: TokenSource, model: onnx.ModelProto, input_size: tuple[int, int], *, reference: str, seed: int = 0
) -> Parity:
    """Run source and model on structured images and compare every token."""
    served = open_session(model)
    before_cast = open_session(without_last_cast(model))
    images = structured_images(sum(_BATCHES), input_size, seed=seed)
    max_abs, min_cosine = 0.0, 1.0
    for batch in np.split(images, np.cumsum(_BATCHES)[:-1]):
        expected = source(batch)
        (exact,) = before_cast.run(None, {before_cast.get_inputs()[0].name: batch})
        (tokens,) = served.run(None, {served.get_inputs()[0].name: batch})
        if exact.shape != expected.shape or tokens.shape != expected.shape:
            raise ParityRefused(
                f"Parity refused: tokens {tokens.shape} where {reference} has {expected.shape}."
            )
        # np.maximum and np.minimum keep a NaN, so a NaN fails both comparisons of `require`.
        max_abs = float(np.maximum(max_abs, np.abs(exact - expected).max()))
        min_cosine = float(np.minimum(min_cosine, token_cosine(expected, tokens).min()))
    return Parity(max_abs, min_cosine, len(images), _BATCHES, reference)


def token_cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Give the cosine of each pair of tokens, (..., D) -> (...); two zero tokens are alike."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = ~(a.any(axis=-1) | b.any(axis=-1))
    cosine: npt.NDArray[np.float64] = np.einsum("...d,...d->...", a, b) / np.where(lengths == 0, 1, lengths)
    return np.where(both_zero, 1.0, cosine)


def without_last_cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a served graph with its last cast to float16 taken off: the output is float32.

    Raises ParityRefused where the output is not such a cast.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    output = copy.graph.output[0]
    cast = next(node for node in copy.graph.node if output.name in node.output)
    if cast.op_type != "Cast":
        raise ParityRefused(f"The graph's output comes from {cast.op_type}, not from a cast to float16.")
    output.name = cast.input[0]
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    copy.graph.node.remove(cast)
    return copy


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )


def structured_images(count: int, size: tuple[int, int], *, seed: int) -> ImageArray:
    """Draw images with the statistics of photographs: 1/f noise in three mixed channels, and hard edges.

    White noise would leave every patch alike, and a comparison on it would say little.
    Returns (count, H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((count, 3, height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=size)
    noise /= noise.std(axis=(2, 3), keepdims=True)
    mixed = np.einsum("ij,bjhw->bhwi", np.array([[1, 0.3, 0], [0.8, 0.5, 0.2], [0.6, 0.2, 0.6]]), noise)
    images = 120.0 + 40.0 * mixed
    ys, xs = np.mgrid[:height, :width]
    for image in images:
        for _ in range(4):
            angle, offset = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8)
            side = (xs / width) * np.cos(angle) + (ys / height) * np.sin(angle) > offset
            image[side] += rng.uniform(-60, 60, 3)
    drawn: ImageArray = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    return drawn
