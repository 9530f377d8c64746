"""The model repository on disk: immutable version directories and one config.pbtxt a backbone.

    <repository>/<name>/config.pbtxt
    <repository>/<name>/<version>/{model.onnx, manifest.json}

A version appears by one rename, complete, and never changes. Knows nothing of what is in a graph.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import BadInput
from export.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest
from export.triton_config import Device, build_config, render_config

DEFAULT_REPOSITORY = Path("model_repository")
CONFIG_FILE = "config.pbtxt"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version in the repository. reused: it was there already, with the same fingerprint."""

    directory: Path
    manifest: Mapping[str, Any]
    reused: bool

    @property
    def version(self) -> int:
        """The version's number."""
        return int(self.manifest["version"])


def require_name(name: str) -> None:
    """Raise BadInput where a name cannot be a directory and a model name on every server."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"The name {name!r} must be 1 to 64 of a-z, 0-9 and _, and not begin with _.")


def list_versions(repository: Path, name: str) -> list[int]:
    """Give the versions present, ascending."""
    directory = repository / name
    if not directory.is_dir():
        return []
    return sorted(
        int(entry.name) for entry in directory.iterdir() if entry.is_dir() and entry.name.isdecimal()
    )


def publish(
    repository: Path,
    name: str,
    model: bytes,
    draft: Mapping[str, Any],
    *,
    device: Device,
    force_new: bool = False,
) -> PublishedVersion:
    """Put a graph into the repository under the next version and list it in config.pbtxt.

    draft: the manifest without name and version. Where a version has the same fingerprint already, that one
    is given back unless force_new is set.

    Raises BadInput where the name is impossible or already serves another input or output.
    """
    require_name(name)
    present = {
        version: read_manifest(repository / name / str(version))
        for version in list_versions(repository, name)
    }
    for version, manifest in present.items():
        if (manifest["input"], manifest["output"]) != (draft["input"], draft["output"]):
            raise BadInput(
                f"{name} version {version} serves {manifest['input']['shape']} -> "
                f"{manifest['output']['shape']}, this graph {draft['input']['shape']} -> "
                f"{draft['output']['shape']}; use another name."
            )
    for version, manifest in sorted(present.items(), reverse=True):
        if manifest["fingerprint"] == draft["fingerprint"] and not force_new:
            write_config(repository, name, device=device)
            return PublishedVersion(repository / name / str(version), manifest, reused=True)
    published = _add_version(repository, name, model, draft)
    write_config(repository, name, device=device)
    return published


def write_config(repository: Path, name: str, *, device: Device) -> None:
    """Write config.pbtxt for the versions present, atomically."""
    written: list[int] = []
    # Two exports at once: the one that lists last must have seen both versions.
    while (versions := list_versions(repository, name)) != written:
        manifests = {version: read_manifest(repository / name / str(version)) for version in versions}
        fingerprints = {version: str(manifest["fingerprint"]) for version, manifest in manifests.items()}
        config = build_config(name, manifests[versions[-1]], fingerprints, device=device)
        temporary = repository / name / f".{CONFIG_FILE}-{os.getpid()}"
        _write_durably(temporary, render_config(config).encode())
        temporary.replace(repository / name / CONFIG_FILE)
        _sync_directory(repository / name)
        written = versions


def _add_version(repository: Path, name: str, model: bytes, draft: Mapping[str, Any]) -> PublishedVersion:
    # Inside the backbone's directory: on the same file system, and a server looks at numbered entries only.
    staging = repository / name / f".staging-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _write_durably(staging / MODEL_FILE, model)
        while True:
            version = max(list_versions(repository, name), default=0) + 1
            manifest = {"schema": draft["schema"], "name": name, "version": version, **draft}
            _write_durably(staging / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())
            _sync_directory(staging)
            target = repository / name / str(version)
            try:
                staging.rename(target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue  # another export took this number
                raise
            _sync_directory(target.parent)
            return PublishedVersion(target, manifest, reused=False)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
