"""Read the exported backbones: which versions are there, and what their manifests say.

Knows the layout `<root>/<name>/<version>/{model.onnx, manifest.json}`; never writes, never opens a graph.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeatureContractBroken, NotFound

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_Stamp = tuple[int, int, int]


class ModelRepository:
    """The shipped model repository, read on each call; a manifest is parsed again only when its file
    changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parsed: dict[Path, tuple[_Stamp, BackboneSpec]] = {}

    @property
    def root(self) -> Path:
        """The repository's folder."""
        return self._root

    def names(self) -> list[str]:
        """List the backbones with at least one complete version, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in self._root.iterdir() if self.versions(entry.name))

    def versions(self, name: str) -> list[int]:
        """List the complete versions of a backbone, ascending; empty where there is no such backbone."""
        folder = self._root / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in folder.iterdir()
            if entry.name.isdecimal() and (entry / MANIFEST).is_file()
        )

    def spec(self, name: str, version: int | None = None) -> BackboneSpec:
        """Read a version's manifest; the highest version where none is named.

        Raises NotFound where there is no such version; FeatureContractBroken where its manifest cannot be
        read or speaks of another version.
        """
        if version is None:
            version = max(self.versions(name), default=None)
        if version is None or not _NAME.fullmatch(name):
            raise NotFound(f"backbone {name!r} is not in {self._root}: export it first")
        path = self._root / name / str(version) / MANIFEST
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._parsed.get(path)
            if known is None or known[0] != stamp:
                known = self._parsed[path] = (stamp, _parse(path, name, version))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"backbone {name!r} has no version {version} in {self._root}") from error
        except OSError as error:
            raise FeatureContractBroken(f"{path} cannot be read: {error.strerror}") from error
        return known[1]

    def trusted(self, name: str) -> BackboneSpec:
        """Read the newest version whose weights are not random; the newest of all where every one is.

        Raises NotFound, FeatureContractBroken.
        """
        specs = [self.spec(name, version) for version in self.versions(name)]
        return max(specs, key=lambda s: (s.weights_source != "random", s.version), default=None) or self.spec(
            name
        )

    def find(self, fingerprint: str) -> BackboneSpec | None:
        """Find the version with this fingerprint, under any name; the highest where several carry it.

        Raises FeatureContractBroken where a manifest cannot be read.
        """
        for name in self.names():
            for version in reversed(self.versions(name)):
                spec = self.spec(name, version)
                if spec.fingerprint == fingerprint:
                    return spec
        return None

    def model_path(self, spec: BackboneSpec) -> Path:
        """Give the path of a version's graph.

        Raises NotFound where the file is gone.
        """
        path = self._root / spec.name / str(spec.version) / GRAPH
        if not path.is_file():
            raise NotFound(f"{path} does not exist: export the backbone again")
        return path


def _parse(path: Path, name: str, version: int) -> BackboneSpec:
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise FeatureContractBroken(f"{path} is not JSON: {error}") from error
    spec = BackboneSpec.from_manifest(manifest)
    if (spec.name, spec.version) != (name, version):
        raise FeatureContractBroken(f"{path} describes {spec.name}/{spec.version}")
    return spec
