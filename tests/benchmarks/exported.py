"""Backbones exported once and kept: a repository that follows the exporter's own source.

Beside each backbone lies the digest of the sources that exported it; where they have changed since, it is exported
again (the same graph keeps its version). A repository without digests is somebody else's and is used as it is.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.features.repository import ModelRepository
from tests.benchmarks.rows import ROOT

_SEED = 0


def export_once(repository: Path, backbone: str) -> BackboneSpec:
    """Give the backbone's newest version, exported with seeded random weights where it is missing or outdated.

    Raises subprocess.CalledProcessError where the export fails.
    """
    models, stamp = ModelRepository(repository), repository / f".{backbone}.sources"
    digest = _digest()
    outdated = stamp.is_file() and stamp.read_text(encoding="utf-8") != digest
    if outdated or not models.versions(backbone):
        sys.stderr.write(f"exporting {backbone} into {repository}\n")
        command = [sys.executable, "-m", "export", "onnx", "--backbone", backbone, "--weights", "random"]
        subprocess.run(
            [*command, "--seed", str(_SEED), "--repository", str(repository.absolute())],
            cwd=ROOT,
            stdout=sys.stderr,
            check=True,
        )
        stamp.write_text(digest, encoding="utf-8")
    return models.spec(backbone)


def _digest() -> str:
    digest = hashlib.sha256()
    for source in sorted((ROOT / "export").glob("*.py")):
        digest.update(source.name.encode() + b"\n" + source.read_bytes())
    return digest.hexdigest()
