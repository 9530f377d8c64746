"""Finds out what a third-party ONNX graph is: its input, its layout, the shape of its features.

Refuses, in one sentence each, what cannot become a grid of patch tokens. Changes nothing in the graph but its
opset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, version_converter
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from export.backbones import Triple
from export.errors import BadInput
from export.parity import FloatArray, ImageArray, TokenSource, open_session

# What ONNX Runtime raises where a graph cannot be loaded or run; it has no common base.
RUNTIME_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# 17: native LayerNormalization, and the oldest whose operators the wrapping uses. 20: the newest with IR 10.
_OLDEST_OPSET, _NEWEST_OPSET, _IR_VERSION = 17, 20, 10
_DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.UINT8: np.uint8}
_LARGEST_PREFIX = 16


@dataclass(frozen=True, slots=True)
class ForeignGraph:
    """What a third-party graph was found to be.

    model: as loaded, with its opset in range. input_type: a TensorProto data type. input_size: (H, W).
    grid: (R, C). feature_map: the output is (B, D, R, C), not (B, N, D). session: runs the graph as it was.
    """

    model: onnx.ModelProto
    session: onnxruntime.InferenceSession
    input_name: str
    output_name: str
    input_type: int
    channels_first: bool
    input_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    feature_map: bool

    def source(self, *, mean: Triple, std: Triple, scale: float) -> TokenSource:
        """Give the graph as it was, normalised outside it, as the reference of a parity measurement.

        One image a call, so that a batch axis baked into the graph cannot hide.
        """

        def tokens(images: ImageArray) -> FloatArray:
            results = [self._run_one(image, mean, std, scale) for image in images]
            features = np.concatenate(results).astype(np.float32)
            if self.feature_map:
                features = features.reshape(len(images), self.dim, -1).transpose(0, 2, 1)
            lengths = np.linalg.norm(features, axis=-1, keepdims=True)
            normalised: FloatArray = features / np.maximum(lengths, np.float32(1e-12))
            return normalised

        return tokens

    def _run_one(self, image: ImageArray, mean: Triple, std: Triple, scale: float) -> FloatArray:
        pixels = image[None].astype(np.float64)
        if self.input_type != TensorProto.UINT8:
            pixels = (pixels / scale - np.array(mean)) / np.array(std)
        if self.channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        fed = np.ascontiguousarray(pixels.astype(_DTYPES[self.input_type]))
        (result,) = self.session.run([self.output_name], {self.input_name: fed})
        features: FloatArray = result
        return features


def read_graph(path: Path, *, input_side: int | None = None, output: str | None = None) -> ForeignGraph:
    """Read a graph file and find out what it is, by running it on one image.

    input_side: px, where its size is free. output: which one, where it has several.

    Raises BadInput.
    """
    model = _load(path)
    initialized = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    if len(inputs) != 1:
        raise BadInput(f"{path} has {len(inputs)} inputs; one image is needed.")
    image = inputs[0]
    input_type = image.type.tensor_type.elem_type
    if input_type not in _DTYPES:
        raise BadInput(
            f"{path}: input {image.name} is {TensorProto.DataType.Name(input_type)}, not float or uint8."
        )
    channels_first, input_size = _layout(path, image, input_side)
    output_name = _choose_output(path, [value.name for value in model.graph.output], output)
    try:
        session = open_session(onnx.load(path))
        shape = (1, 3, *input_size) if channels_first else (1, *input_size, 3)
        (features,) = session.run([output_name], {image.name: np.zeros(shape, _DTYPES[input_type])})
    except RUNTIME_ERRORS as error:
        raise BadInput(
            f"{path} does not run on an image of {input_size[0]} x {input_size[1]} px: {error}"
        ) from error
    if features.dtype not in (np.float32, np.float16):
        raise BadInput(f"{path}: output {output_name} is {features.dtype}, not float.")
    grid, dim = _token_grid(path, output_name, features.shape, input_size)
    return ForeignGraph(
        model=_bring_into_range(path, model),
        session=session,
        input_name=image.name,
        output_name=output_name,
        input_type=input_type,
        channels_first=channels_first,
        input_size=input_size,
        grid=grid,
        dim=dim,
        feature_map=features.ndim == 4,
    )


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise BadInput(f"There is no graph file {path}.")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise BadInput(f"{path} is not a valid ONNX graph: {str(error).splitlines()[0]}") from error
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise BadInput(f"{path} uses operators outside ONNX itself ({', '.join(sorted(foreign))}).")
    return model


def _layout(path: Path, image: onnx.ValueInfoProto, input_side: int | None) -> tuple[bool, tuple[int, int]]:
    # 0 stands for a free axis; no real axis has that length.
    axes = [axis.dim_value for axis in image.type.tensor_type.shape.dim]
    if len(axes) != 4 or 3 not in (axes[1], axes[3]):
        raise BadInput(f"{path}: input {image.name} {axes} is neither (B, 3, H, W) nor (B, H, W, 3).")
    if axes[0] > 1:
        raise BadInput(f"{path}: its batch is fixed at {axes[0]}; it must be free or 1.")
    channels_first = axes[1] == 3
    declared = axes[2:4] if channels_first else axes[1:3]
    if input_side is None:
        if 0 in declared:
            raise BadInput(f"{path} takes images of any size; fix it by --input-size.")
        return channels_first, (declared[0], declared[1])
    if input_side < 1:
        raise BadInput(f"--input-size {input_side} must be positive.")
    if any(axis not in (0, input_side) for axis in declared):
        raise BadInput(f"{path} takes {declared[0]} x {declared[1]} px only; leave --input-size out.")
    return channels_first, (input_side, input_side)


def _choose_output(path: Path, names: list[str], wanted: str | None) -> str:
    listed = ", ".join(names)
    if wanted is not None:
        if wanted not in names:
            raise BadInput(f"{path} has no output {wanted!r}; it has {listed}.")
        return wanted
    if len(names) != 1:
        raise BadInput(f"{path} has several outputs ({listed}); name one by --output.")
    return names[0]


def _token_grid(
    path: Path, name: str, shape: tuple[int, ...], input_size: tuple[int, int]
) -> tuple[tuple[int, int], int]:
    height, width = input_size
    match shape:
        case (1, dim, rows, columns) if rows * width == columns * height and rows > 0:
            return (rows, columns), dim
        case (1, patches, dim) if patches > 0:
            grid = _grid_of(patches, input_size)
            if grid is not None:
                return grid, dim
            for prefix in range(1, min(_LARGEST_PREFIX, patches - 1) + 1):
                if _grid_of(patches - prefix, input_size) is not None:
                    raise BadInput(
                        f"{path}: output {name} has {patches} tokens, a grid and {prefix} more; "
                        "prefix tokens must be cut off inside the graph."
                    )
    raise BadInput(
        f"{path}: output {name} {shape} is neither (B, N, D) tokens nor a (B, D, R, C) map with a grid of "
        f"the input's aspect ({height} x {width} px)."
    )


def _grid_of(patches: int, input_size: tuple[int, int]) -> tuple[int, int] | None:
    divisor = math.gcd(*input_size)
    rows, columns = input_size[0] // divisor, input_size[1] // divisor
    factor = math.isqrt(patches // (rows * columns))
    return (rows * factor, columns * factor) if factor and rows * columns * factor**2 == patches else None


def _bring_into_range(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    target = min(max(opset, _OLDEST_OPSET), _NEWEST_OPSET)
    if target != opset:
        try:
            model = version_converter.convert_version(model, target)
        except (version_converter.ConvertError, RuntimeError) as error:
            raise BadInput(
                f"{path} (opset {opset}) cannot be converted to opset {target}: {error}"
            ) from error
    for entry in [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]:
        model.opset_import.remove(entry)
    model.ir_version = _IR_VERSION
    return model
