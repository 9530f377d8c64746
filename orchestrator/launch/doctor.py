"""Checks what a start on this machine needs, and says what to do where something is missing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import PatchlightError
from orchestrator.features.repository import ModelRepository
from orchestrator.launch.api import port_fault
from orchestrator.launch.backbone import PRETRAINED, weights_file
from orchestrator.settings import Settings
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.database import REVISION, Database, embedded
from orchestrator.storage.files import FileStore
from orchestrator.twin.install import is_installed
from orchestrator.twin.libpython import find_libpython

MIN_FREE_BYTES = 2 << 30
MIN_SHM_BYTES = 256 << 20
_SHM = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. remedy: what to do, empty where all is well."""

    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that cannot run is a finding itself."""
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("python", _python),
        ("cores", _cores),
        ("disk", _disk),
        ("shared memory", _shared_memory),
        ("store", _store),
        ("database", _database),
        ("port", _port),
        ("libpython", _libpython),
        ("triton", _triton),
        ("backbone", _backbone),
        ("weights", _weights),
        ("access", _access),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(check(settings))
        except (PatchlightError, OSError) as error:
            findings.append(Finding(name, "bad", str(error), "see the sentence beside"))
    return findings


def _python(_: Settings) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", version)


def _cores(settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0))
    if settings.workers > cores:
        remedy = f"set BDI_WORKERS to {cores} or less"
        return Finding("cores", "note", f"{cores}, for {settings.workers} workers", remedy)
    return Finding("cores", "ok", str(cores))


def _disk(settings: Settings) -> Finding:
    folder = _existing(settings.data_root)
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free below {folder}"
    return (
        Finding("disk", "ok", found) if free > MIN_FREE_BYTES else Finding("disk", "bad", found, "free some")
    )


def _shared_memory(_: Settings) -> Finding:
    free = shutil.disk_usage(_SHM).free
    found = f"{free / 1e6:.0f} MB free in {_SHM}"
    if free < MIN_SHM_BYTES:
        return Finding(
            "shared memory", "bad", found, "Triton needs 256 MB: docker run --shm-size=512m, or clean up"
        )
    return Finding("shared memory", "ok", found)


def _store(settings: Settings) -> Finding:
    root = settings.data_root
    if not root.exists():
        folder = _existing(root)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return Finding(
                "store", "bad", f"{root} cannot be made below {folder}", "choose another BACKEND_DATA_ROOT"
            )
        return Finding("store", "ok", f"{root} will be made")
    FileStore(root).check()
    return Finding("store", "ok", f"{root} can be written")


def _database(settings: Settings) -> Finding:
    database = Database(settings.database_url or embedded(settings.data_root))
    path = Path(database.url.database or "")
    if not path.exists():
        return Finding("database", "ok", f"{path} will be made")
    found = asyncio.run(_revision(database))
    remedy = "" if found == REVISION else "'patchlight db upgrade', or the next start, brings it up to date"
    return Finding("database", "note" if remedy else "ok", f"{path}, revision {found or 'none'}", remedy)


async def _revision(database: Database) -> str | None:
    try:
        return await database.revision()
    finally:
        await database.close()


def _port(settings: Settings) -> Finding:
    address = f"{settings.backend_host}:{settings.backend_port}"
    fault = port_fault(settings)
    if fault is not None:
        return Finding("port", "note", f"{address}: {fault}", "end what listens there, or set PORT")
    return Finding("port", "ok", f"{address} is free")


def _libpython(_: Settings) -> Finding:
    return Finding("libpython", "ok", str(find_libpython(may_install=False).library))


def _triton(settings: Settings) -> Finding:
    if settings.triton_url is not None:
        host, _, port = settings.triton_url.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except (OSError, ValueError) as error:
            return Finding(
                "triton", "bad", f"{settings.triton_url}: {error}", "start it, or unset BDI_TRITON_URL"
            )
        return Finding("triton", "ok", f"{settings.triton_url} listens")
    if is_installed(settings.triton_home):
        return Finding("triton", "ok", f"installed in {settings.triton_home}")
    return Finding("triton", "note", "not installed yet", "'patchlight triton' or 'make run' installs it")


def _backbone(settings: Settings) -> Finding:
    repository = ModelRepository(settings.model_repository)
    names = repository.names()
    choice = ChoiceStore(FileStore(settings.data_root)).read()
    listed = ", ".join(names) or "none"
    if choice is None:
        found = f"none chosen yet; exported: {listed}"
        return Finding("backbone", "note", found, "'make run' chooses and exports one")
    if repository.find(choice.fingerprint) is None:
        found = (
            f"{choice.name}/{choice.version}@{choice.fingerprint[:12]} is not in {settings.model_repository}"
        )
        return Finding("backbone", "bad", found, f"python -m export onnx --backbone {choice.name}")
    if choice.reason:
        return Finding(
            "backbone", "note", f"{choice.name}: {choice.reason}", f"make run BACKBONE={PRETRAINED}"
        )
    return Finding("backbone", "ok", f"{choice.name}; exported: {listed}")


def _weights(settings: Settings) -> Finding:
    local = weights_file(settings)
    if local is None:
        remedy = f"with the hub at hand none is needed; else put weights/{PRETRAINED}.safetensors in place"
        return Finding("weights", "note", "no local DINOv2 checkpoint", remedy)
    if not local.is_file():
        return Finding("weights", "bad", f"{local} is not there", "correct or unset BDI_WEIGHTS")
    return Finding("weights", "ok", str(local))


def _access(settings: Settings) -> Finding:
    if settings.api_key is not None:
        return Finding("access", "ok", "a key is asked for")
    if settings.backend_host in ("127.0.0.1", "localhost", "::1"):
        return Finding("access", "ok", "no key, but only this machine can call")
    return Finding(
        "access", "note", f"no key, and {settings.backend_host} is open to others", "set BACKEND_API_KEY"
    )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
