"""How one Triton is invoked: ports, flags and environment; starts nothing itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orchestrator.twin.install import TritonInstallation

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports of one server, all on loopback."""

    grpc: int
    http: int
    metrics: int


def free_ports(preferred_grpc: int = 0) -> Ports:
    """Find ports that are free now, gRPC's preferred one among them if it is.

    Another program may take one before Triton binds it.
    """
    with ExitStack() as held:
        found = []
        for wanted in (preferred_grpc, 0, 0):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((HOST, wanted))
            except OSError:
                probe.bind((HOST, 0))
            found.append(int(probe.getsockname()[1]))
        return Ports(*found)


def triton_command(
    installation: TritonInstallation,
    repository: Path,
    models: Sequence[str],
    ports: Ports,
    *,
    server_id: str,
    exit_timeout_s: float,
) -> list[str]:
    """Build the command line; `server_id` is also the prefix of the server's shared memory."""
    return [
        str(installation.server),
        f"--id={server_id}",
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        f"--cache-directory={installation.caches}",
        f"--backend-config=python,shm-region-prefix-name={server_id}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--disable-auto-complete-config",
        # With strict readiness one version that is loading makes the whole server look down.
        "--strict-readiness=false",
        *(f"--grpc-address={HOST}", f"--grpc-port={ports.grpc}"),
        *(f"--http-address={HOST}", f"--http-port={ports.http}", "--http-thread-count=2"),
        *(f"--metrics-address={HOST}", f"--metrics-port={ports.metrics}", "--allow-gpu-metrics=false"),
        *("--allow-sagemaker=false", "--allow-vertex-ai=false"),
        # Clients ping an idle channel every 15 s; by default Triton takes pings closer than 5 min for abuse.
        "--grpc-http2-min-recv-ping-interval-without-data=5000",
        "--grpc-keepalive-permit-without-calls=true",
        "--pinned-memory-pool-byte-size=0",
        f"--exit-timeout-secs={max(1, round(exit_timeout_s))}",
    ]


def triton_environment(installation: TritonInstallation, scratch: Path) -> dict[str, str]:
    """Build the environment; `scratch` gets a `bin/python3`.

    The embedded interpreter looks for its standard library beside the first `python3` on PATH.
    """
    interpreters = scratch / "bin"
    interpreters.mkdir(parents=True, exist_ok=True)
    python3 = interpreters / "python3"
    if not python3.is_symlink():
        python3.symlink_to(installation.libpython.interpreter)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
    return {
        **inherited,
        "PATH": f"{interpreters}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{installation.libraries}:{installation.libpython.library.parent}",
    }
