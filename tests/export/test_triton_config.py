from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.manifest import read_manifest
from export.triton_config import build_config, render_config


@pytest.fixture
def config(tiny_directory: Path) -> pb.ModelConfig:
    built = build_config("tiny", read_manifest(tiny_directory), {3: "c", 1: "a"}, device="cpu")
    return text_format.Parse(render_config(built), pb.ModelConfig())


def test_it_is_for_nvidias_onnxruntime_backend(config: pb.ModelConfig) -> None:
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 8)


def test_input_and_output_are_typed_without_the_batch(config: pb.ModelConfig) -> None:
    (image,), (tokens,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", pb.TYPE_UINT8, [112, 112, 3])
    assert (tokens.name, tokens.data_type, list(tokens.dims)) == ("tokens", pb.TYPE_FP16, [64, 64])


def test_versions_are_named_one_by_one(config: pb.ModelConfig) -> None:
    assert config.version_policy.WhichOneof("policy_choice") == "specific"
    assert list(config.version_policy.specific.versions) == [1, 3]


def test_inspection_goes_before_fitting_and_a_nameless_caller_does_not(config: pb.ModelConfig) -> None:
    batching = config.dynamic_batching
    assert batching.priority_levels == 2
    assert batching.default_priority_level == 2
    # With a queue timeout, a delay makes Triton lose count of its free instances.
    assert batching.max_queue_delay_microseconds == 0
    assert not batching.preferred_batch_size


def test_every_queue_is_bounded_and_rejects_what_waited_too_long(config: pb.ModelConfig) -> None:
    batching = config.dynamic_batching
    assert sorted(batching.priority_queue_policy) == [1, 2]
    for policy in (batching.default_queue_policy, *batching.priority_queue_policy.values()):
        assert policy.max_queue_size > 0
        assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
        assert policy.default_timeout_microseconds > 0
        assert policy.allow_timeout_override
    inspect, fit = batching.priority_queue_policy[1], batching.priority_queue_policy[2]
    assert inspect.default_timeout_microseconds < fit.default_timeout_microseconds


def test_it_is_warmed_up_at_one_and_at_the_largest_batch(config: pb.ModelConfig) -> None:
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    for warmup in config.model_warmup:
        blank = warmup.inputs["image"]
        assert (blank.data_type, list(blank.dims), blank.zero_data) == (pb.TYPE_UINT8, [112, 112, 3], True)


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", pb.ModelInstanceGroup.KIND_CPU), ("gpu", pb.ModelInstanceGroup.KIND_GPU)],
)
def test_the_device_is_chosen(tiny_directory: Path, device: str, kind: int) -> None:
    config = build_config("tiny", read_manifest(tiny_directory), {1: "a"}, device=device)  # type: ignore[arg-type]
    assert [(group.kind, group.count) for group in config.instance_group] == [(kind, 1)]
