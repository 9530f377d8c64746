"""The model that Triton's Python stub runs: the repository's own graph through onnxruntime.

Runs inside the stub's embedded interpreter, beside NumPy 1.26; imports nothing of the orchestrator. Copied
into the twin repository beside each graph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance: one onnxruntime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph that lies beside this file."""
        config = json.loads(args["model_config"])
        if np.__version__ >= "2":
            raise pb_utils.TritonModelException(
                f"the stub needs NumPy 1.26, it found {np.__version__}: empty tensors"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["twin.threads"]["string_value"])
        options.inter_op_num_threads = 1
        # The orchestrator works on the same cores; spinning threads would take them from it between two
        # batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Resolved, because external weights lie beside the graph itself, not beside the link.
        graph = Path(__file__).with_name("model.onnx").resolve()
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._input: str = config["input"][0]["name"]
        self._output: str = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests of one Triton batch as one batch of the graph; a cancelled one is left out."""
        responses: list[Any] = [None] * len(requests)
        images, live = [], []
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _refusal("cancelled by the client", pb_utils.TritonError.CANCELLED)
            else:
                images.append(pb_utils.get_input_tensor_by_name(request, self._input).as_numpy())
                live.append(index)
        if not live:
            return responses
        try:
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            (tokens,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:
            for index in live:
                responses[index] = _refusal(f"onnxruntime: {error}", pb_utils.TritonError.INTERNAL)
            return responses
        start = 0
        for index, image in zip(live, images, strict=True):
            part = pb_utils.Tensor(self._output, tokens[start : start + len(image)])
            responses[index] = pb_utils.InferenceResponse([part])
            start += len(image)
        return responses


def _refusal(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
