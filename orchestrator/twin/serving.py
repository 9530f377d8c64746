"""One call from a model repository to a Triton that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.twin.install import DEFAULT_HOME, install
from orchestrator.twin.process import TritonServer

INSTANCES = 2
"""Executions at once on a machine without a GPU, each on all cores: while the threads of one wait for each other the
other one works, and a lone request still has every core."""


def serve_repository(
    repository: Path,
    models: Sequence[str],
    *,
    triton_home: Path = DEFAULT_HOME,
    threads: int,
    instances: int = 1,
    log: Path | None = None,
    start_timeout_s: float = 60.0,
    extra_arguments: Sequence[str] = (),
    preferred_grpc_port: int = 0,
) -> TritonServer:
    """Install what is missing, write the twin of `repository` and start Triton on it.

    repository: as shipped; it is only read. threads: for one execution of the graph. instances: executions at once.
    preferred_grpc_port: taken if it is free; 0 for any.
    Returns a server that is ready; the caller stops it.

    Raises NotFound, FeatureContractBroken (the repository); FeaturesUnavailable (the machine, or Triton's
    start).
    """
    server = TritonServer(
        install(triton_home),
        repository,
        models,
        threads=threads,
        instances=instances,
        log=log,
        start_timeout_s=start_timeout_s,
        extra_arguments=extra_arguments,
        preferred_grpc_port=preferred_grpc_port,
    )
    return server.start()
