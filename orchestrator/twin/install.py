"""Put Triton's server binary and the stub's own NumPy into a folder of their own.

Knows the pinned wheels and where this Python keeps its shared library. Knows nothing of models or ports.
The server is the one inside NVIDIA's `nvidia-pytriton` wheel; that wheel predates Triton's 2025 and 2026
security fixes, so what is installed here is for loopback use only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import FeaturesUnavailable
from orchestrator.twin.batcher_patch import shorten_batcher_nap
from orchestrator.twin.libpython import Libpython, find_libpython

SERVER_PIN = "nvidia-pytriton==0.7.0"
# The wheel's Python backend (pybind11 2.10) hands out empty tensors under NumPy 2.
STUB_PINS = ("numpy==1.26.4", "onnxruntime==1.31.1")
PYTHONS = ("3.11", "3.12")
DEFAULT_HOME = Path(".triton")
_STAMP = "installed.json"
_LAYOUT = "3"  # counted up when what `_assemble` makes changes


@dataclass(frozen=True, slots=True)
class TritonInstallation:
    """Where one complete installation keeps its parts.

    stub_packages: the folder that must come first on the stub's sys.path.
    """

    server: Path
    backends: Path
    caches: Path
    libraries: Path
    stub_packages: Path
    libpython: Libpython


def install(home: Path = DEFAULT_HOME) -> TritonInstallation:
    """Install the pinned wheels for this Python under `home`, once; later calls only look.

    A killed install leaves only a staging folder, which the next one removes; two at once wait for each
    other.

    Raises FeaturesUnavailable where the machine cannot run it, or pip fails; the sentence says what to do.
    """
    _check_platform()
    home = home.absolute()
    final = home / _key()
    if not (final / _STAMP).is_file():
        with _locked(home):
            if not (final / _STAMP).is_file():
                _build(home, final)
    return _locate(final)


def is_installed(home: Path = DEFAULT_HOME) -> bool:
    """Say whether `install` would find everything in place."""
    return (home.absolute() / _key() / _STAMP).is_file()


def _key() -> str:
    pins = hashlib.sha256("\n".join((SERVER_PIN, *STUB_PINS, _LAYOUT)).encode()).hexdigest()[:8]
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{pins}"


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise FeaturesUnavailable(
            f"Triton's wheel is built for x86_64 Linux, not {platform.machine()} {sys.platform}; "
            "use the in-process extractor here"
        )
    libc, version = platform.libc_ver()
    if libc == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
        raise FeaturesUnavailable(f"Triton's wheel needs glibc 2.35, this system has {version}")
    if _minor() not in PYTHONS:
        raise FeaturesUnavailable(
            f"the Triton twin needs Python {' or '.join(PYTHONS)} (its stub needs NumPy 1.26), this is {_minor()}"
        )


def _minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(home: Path, final: Path) -> None:
    # Only the holder of the lock builds, so any staging folder seen here was left by a killed install.
    for stale in home.glob(".staging-*"):
        shutil.rmtree(stale)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home))
    try:
        staging.chmod(0o755)
        _pip(staging / "server", SERVER_PIN)
        _pip(staging / "stub", *STUB_PINS)
        _assemble(staging)
        (staging / _STAMP).write_text(
            json.dumps({"server": SERVER_PIN, "stub": STUB_PINS, "python": sys.version})
        )
        if final.exists():  # a folder without its stamp
            shutil.rmtree(final)
        os.sync()
        staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pip(target: Path, *requirements: str) -> None:
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(target), *requirements),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise FeaturesUnavailable(
            f"pip could not install {' '.join(requirements)}: {result.stderr.strip()[-600:] or 'no message'}"
        )


def _assemble(root: Path) -> None:
    triton = root / "server" / "pytriton" / "tritonserver"
    (triton / "bin" / "tritonserver").chmod(0o755)
    backend = root / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    stub = backend / "triton_python_backend_stub"
    shutil.copy(triton / "python_backend_stubs" / _minor() / "triton_python_backend_stub", stub)
    stub.chmod(0o755)
    shorten_batcher_nap(root / "server" / "nvidia_pytriton.libs")


def _locate(root: Path) -> TritonInstallation:
    triton = root / "server" / "pytriton" / "tritonserver"
    return TritonInstallation(
        server=triton / "bin" / "tritonserver",
        backends=root / "backends",
        caches=triton / "caches",
        libraries=root / "server" / "nvidia_pytriton.libs",
        stub_packages=root / "stub",
        libpython=find_libpython(),
    )
