"""A memory bank as it is stored: the rows, where each came from, and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.domain.arrays import HalfArray, IndexArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.memory_options import MemoryOptions

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BankIndex:
    """The index that belongs to a bank. sha256: of its bytes. nlist: lists; nprobe: lists that a query looks into."""

    kind: Literal["ivf"]
    nlist: int
    nprobe: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BankMetadata:
    """What a bank says of itself.

    generation: rises by one a fit. fingerprint: of the backbone, None for a legacy bank.
    sample_sha256: digests of the samples it was fitted from, in order. source: "patchlight" or "legacy".
    options: how its features and scores are made. index: what it is searched through, None where every row is compared.
    """

    generation: int
    backbone: str | None
    backbone_version: int | None
    fingerprint: str | None
    n_embeddings: int
    coreset_rate_requested: float
    coreset_rate_applied: float
    mm_per_px: float | None
    fit_started_at: str | None
    fit_duration_s: float
    sample_sha256: tuple[str, ...] = ()
    from_dataset: bool = False
    operator_id: str | None = None
    notes: str | None = None
    source: str = "patchlight"
    options: MemoryOptions = field(default_factory=MemoryOptions)
    index: BankIndex | None = None
    extra: Json = field(default_factory=dict)

    @property
    def model_version(self) -> str | None:
        """The wire's `<backbone>/<version>@<first 12 of the fingerprint>`; None for a legacy bank."""
        if self.fingerprint is None:
            return None
        return f"{self.backbone}/{self.backbone_version}@{self.fingerprint[:12]}"


@dataclass(frozen=True, slots=True)
class BankRecord:
    """The stored rows.

    embeddings: (M, D) float16, L2-normalised. grid: (R, C) of every photograph in it. row_sample, row_patch: (M,)
    int64, which sample of `metadata.sample_sha256` and which patch of the original a row is, whatever view of it; empty
    for a legacy bank. foreground: what tells the part from its background, where the options ask for it.
    """

    embeddings: HalfArray
    grid: tuple[int, int]
    metadata: BankMetadata
    row_sample: IndexArray
    row_patch: IndexArray
    foreground: ForegroundAxis | None = None
