"""Write the twin of a shipped model repository: same contract, other backend.

Knows Triton's config.pbtxt and repository layout. What a client can see (name, tensors, batching, queue
policy, versions, warm-up, fingerprints) stays as shipped; only what says how the graph is run is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from orchestrator.errors import FeatureContractBroken, NotFound

_STUB_MODEL = Path(__file__).with_name("stub_model.py")


def build_twin(
    shipped: Path,
    models: Sequence[str],
    target: Path,
    *,
    stub_packages: Path,
    threads: int,
    instances: int = 1,
) -> None:
    """Write `target` so that Triton's Python backend serves `models` of `shipped`.

    The graphs are linked, not copied. threads: per instance.

    Raises NotFound where a model, its config or a version it names is missing; FeatureContractBroken where
    the config cannot be parsed.
    """
    for name in models:
        source, folder = shipped.absolute() / name, target / name
        config = read_config(source)
        versions = _versions(source, config)
        _run_on_python_backend(config, threads, instances)
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
        for version in versions:
            (folder / str(version)).mkdir()
            (folder / str(version) / "model.onnx").symlink_to(source / str(version) / "model.onnx")
            (folder / str(version) / "stub_model.py").write_text(_STUB_MODEL.read_text())
            (folder / str(version) / "model.py").write_text(_model_source(stub_packages))


def read_config(model: Path) -> Any:
    """Parse `<model>/config.pbtxt`.

    Raises NotFound, FeatureContractBroken.
    """
    path = model / "config.pbtxt"
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist: export the backbone first") from error
    except text_format.ParseError as error:
        raise FeatureContractBroken(f"{path} is not a Triton model configuration: {error}") from error


def _versions(source: Path, config: Any) -> list[int]:
    versions = sorted(config.version_policy.specific.versions) or sorted(
        int(entry.name) for entry in source.iterdir() if entry.name.isdigit()
    )
    missing = [version for version in versions if not (source / str(version) / "model.onnx").is_file()]
    if missing or not versions:
        raise NotFound(
            f"{source} has no model.onnx for version {missing[0] if missing else 1}: export it first"
        )
    return versions


def _run_on_python_backend(config: Any, threads: int, instances: int) -> None:
    for field in (
        "platform",
        "optimization",
        "instance_group",
        "default_model_filename",
        "cc_model_filenames",
    ):
        config.ClearField(field)
    config.backend = "python"
    # Triton runs batcher and backend threads at nice 5 unless told so; on a shared machine requests would
    # wait for tens of milliseconds behind anything else that computes.
    config.optimization.priority = model_config_pb2.ModelOptimizationPolicy.PRIORITY_MAX
    # Triton 2.51 loses count of its free instances when the delay makes it merge batches while a queue
    # policy is in force, and slows down until the model is reloaded (triton-inference-server/server#8870).
    config.dynamic_batching.ClearField("max_queue_delay_microseconds")
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=instances)
    config.parameters["twin.threads"].string_value = str(threads)


def _model_source(stub_packages: Path) -> str:
    # The embedded interpreter ignores PYTHONPATH, so the stub's own NumPy must be put first before anything
    # imports it.
    return f"import sys\n\nsys.path.insert(0, {str(stub_packages)!r})\nfrom stub_model import TritonPythonModel\n"
