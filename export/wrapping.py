"""Surgery on a third-party graph: our input in front of it, our output behind it.

Standard operators only. Knows how to put nodes together, not which graph deserves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from export.backbones import Triple
from export.manifest import INPUT_NAME, OUTPUT_NAME

_PREFIX = "source/"
_MIN_SQUARED_NORM = 1e-24


def wrap_graph(
    source: onnx.ModelProto,
    *,
    input_name: str,
    output_name: str,
    channels_first: bool,
    input_size: tuple[int, int],
    token_shape: tuple[int, int],
    feature_map: bool,
    mean: Triple,
    std: Triple,
    scale: float,
) -> onnx.ModelProto:
    """Give a graph from (B, H, W, 3) uint8 RGB to (B, N, D) float16 tokens of length 1.

    token_shape: (N, D). feature_map: the source's output is (B, D, R, C) instead of (B, N, D).
    mean, std, scale: (pixel / scale - mean) / std; a uint8 input is fed as it is.
    """
    model = compose.add_prefix(source, _PREFIX)
    graph = model.graph
    source_type = next(i for i in graph.input if i.name == _PREFIX + input_name).type.tensor_type.elem_type
    before, constants = _preprocessing(source_type, channels_first, mean, std, scale, _PREFIX + input_name)
    after, more = _tokens(_PREFIX + output_name, token_shape if feature_map else None)
    nodes = [*before, *_needed(graph, _PREFIX + output_name), *after]
    used = {name for node in nodes for name in _reads(node)}
    kept = [*(i for i in graph.initializer if i.name in used), *constants, *more]
    sparse = [i for i in graph.sparse_initializer if i.values.name in used]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    del graph.initializer[:], graph.sparse_initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    graph.sparse_initializer.extend(sparse)
    graph.input.append(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", *input_size, 3])
    )
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT16, ["batch", *token_shape])
    )
    return model


def _preprocessing(
    source_type: int, channels_first: bool, mean: Triple, std: Triple, scale: float, target: str
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    nodes, constants, value = [], [], INPUT_NAME
    if source_type != TensorProto.UINT8:
        constants = [
            _constant("mean", np.asarray(mean, np.float64) * scale),
            _constant("inverse_std", 1.0 / (np.asarray(std, np.float64) * scale)),
        ]
        nodes = [
            helper.make_node("Cast", [value], ["image_float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["image_float", "mean"], ["image_centred"]),
            helper.make_node("Mul", ["image_centred", "inverse_std"], ["image_normalised"]),
        ]
        value = "image_normalised"
        if source_type != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [value], ["image_cast"], to=source_type))
            value = "image_cast"
    if channels_first:
        nodes.append(helper.make_node("Transpose", [value], [target], perm=[0, 3, 1, 2]))
    else:
        nodes.append(helper.make_node("Identity", [value], [target]))
    return nodes, constants


def _tokens(value: str, map_shape: tuple[int, int] | None) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    constants = [_constant("min_squared_norm", _MIN_SQUARED_NORM)]
    nodes = []
    if map_shape is not None:
        patches, dim = map_shape
        # 0 keeps the batch axis as it is.
        constants.append(numpy_helper.from_array(np.array([0, dim, patches], np.int64), "flat_shape"))
        nodes = [
            helper.make_node("Reshape", [value, "flat_shape"], ["map_flat"]),
            helper.make_node("Transpose", ["map_flat"], ["map_tokens"], perm=[0, 2, 1]),
        ]
        value = "map_tokens"
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    nodes += [
        helper.make_node("Cast", [value], ["tokens_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["tokens_float", "tokens_float"], ["tokens_squared"]),
        helper.make_node("ReduceSum", ["tokens_squared", "last_axis"], ["squared_norm"], keepdims=1),
        helper.make_node("Max", ["squared_norm", "min_squared_norm"], ["squared_norm_positive"]),
        helper.make_node("Sqrt", ["squared_norm_positive"], ["norm"]),
        helper.make_node("Div", ["tokens_float", "norm"], ["tokens_normalised"]),
        helper.make_node("Cast", ["tokens_normalised"], [OUTPUT_NAME], to=TensorProto.FLOAT16),
    ]
    return nodes, constants


def _constant(name: str, value: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    # A subgraph (If, Loop, Scan) also reads names of the graph around it.
    names = set(node.input)
    for attribute in node.attribute:
        for inner in _subgraphs(attribute):
            for nested in inner.node:
                names |= _reads(nested)
            names.update(output.name for output in inner.output)
    return names


def _subgraphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    graphs: Sequence[onnx.GraphProto] = attribute.graphs
    return [attribute.g, *graphs] if attribute.HasField("g") else graphs
