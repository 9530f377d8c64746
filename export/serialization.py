"""Turns an ONNX model into bytes that depend on what it computes only."""

from __future__ import annotations

import copy

import onnx


def strip_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without what tells only of the machine that wrote it: paths, stack traces, tool versions.

    The same weights then give the same bytes.
    """
    model = copy.deepcopy(model)
    model.producer_name, model.producer_version, model.doc_string = "patchlight", "", ""
    graph = model.graph
    graph.name, graph.doc_string = "features", ""
    del graph.value_info[:]
    described = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    for element in described:
        element.doc_string = ""
    for element in (model, graph, *described):
        del element.metadata_props[:]
    return model


def serialize(model: onnx.ModelProto) -> bytes:
    """Give the file's bytes, the same for equal models."""
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
