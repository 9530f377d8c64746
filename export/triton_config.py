"""Triton's config.pbtxt for a backbone, as NVIDIA's image loads it.

Built as Triton's own message, so what is written parses. Knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

Device = Literal["cpu", "gpu"]

MAX_BATCH_SIZE = 8
# What queues while an instance works is batched anyway; a delay with a queue timeout makes Triton lose count of its
# free instances (triton-inference-server/server issue 8870).
MAX_QUEUE_DELAY_US = 0
# A request may shorten its time in the queue, never lengthen it: these are the API's own default budgets.
INSPECT_PRIORITY, FIT_PRIORITY = 1, 2
_QUEUE_SIZE = {INSPECT_PRIORITY: 64, FIT_PRIORITY: 256}
_QUEUE_TIMEOUT_US = {INSPECT_PRIORITY: 30_000_000, FIT_PRIORITY: 600_000_000}

# REJECT is the zero of its enumeration, which protobuf's text leaves out.
_HEADER = (
    "# Written by `python -m export`; a change made here is lost at the next export.\n"
    "# timeout_action is REJECT, Triton's default, in every queue policy.\n"
)


def build_config(
    name: str, manifest: Mapping[str, Any], fingerprints: Mapping[int, str], *, device: Device
) -> pb.ModelConfig:
    """Build a backbone's configuration.

    manifest: of any version (all share input and output). fingerprints: by version, for every one present.
    """
    height, width, channels = manifest["input"]["shape"][1:]
    patches, dim = manifest["output"]["shape"][1:]
    input_name = manifest["input"]["name"]
    config = pb.ModelConfig(name=name, backend="onnxruntime", max_batch_size=MAX_BATCH_SIZE)
    config.input.add(name=input_name, data_type=pb.TYPE_UINT8, dims=[height, width, channels])
    config.output.add(name=manifest["output"]["name"], data_type=pb.TYPE_FP16, dims=[patches, dim])
    # `latest` would unload versions that memory banks still refer to.
    config.version_policy.specific.versions.extend(sorted(fingerprints))
    kind = pb.ModelInstanceGroup.KIND_GPU if device == "gpu" else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = MAX_QUEUE_DELAY_US
    batching.priority_levels = len(_QUEUE_SIZE)
    # A caller that names no priority must not get in front of the line.
    batching.default_priority_level = FIT_PRIORITY
    batching.default_queue_policy.CopyFrom(_queue_policy(FIT_PRIORITY))
    for level in _QUEUE_SIZE:
        batching.priority_queue_policy[level].CopyFrom(_queue_policy(level))
    for batch in (1, MAX_BATCH_SIZE):
        warmup = config.model_warmup.add(name=f"batch_{batch}", batch_size=batch)
        blank = warmup.inputs[input_name]
        blank.data_type = pb.TYPE_UINT8
        blank.dims.extend([height, width, channels])
        blank.zero_data = True
    for version, fingerprint in sorted(fingerprints.items()):
        config.parameters[f"fingerprint.{version}"].string_value = fingerprint
    return config


def render_config(config: pb.ModelConfig) -> str:
    """Give the text of config.pbtxt."""
    text: str = text_format.MessageToString(config)
    return _HEADER + text


def _queue_policy(level: int) -> pb.ModelQueuePolicy:
    return pb.ModelQueuePolicy(
        max_queue_size=_QUEUE_SIZE[level],
        timeout_action=pb.ModelQueuePolicy.REJECT,
        default_timeout_microseconds=_QUEUE_TIMEOUT_US[level],
        allow_timeout_override=True,
    )
