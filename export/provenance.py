"""Where a version's weights came from; knows no torch, so that an import of a foreign graph needs none."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class WeightsProvenance:
    """Where weights came from, enough to load them again.

    sha256: of the checkpoint or graph file. state_sha256: of the loaded tensors, whatever file held them.
    """

    source: Literal["pretrained", "file", "random", "none"]
    file: str | None = None
    sha256: str | None = None
    hub_id: str | None = None
    seed: int | None = None
    state_sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the manifest's `weights`."""
        return asdict(self)


def file_sha256(path: Path) -> str:
    """Hash a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
