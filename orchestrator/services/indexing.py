"""Gives a large bank its index when it is fitted; knows the size from the rules, not where anything is stored."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from orchestrator.domain.bank import BankIndex, BankRecord
from orchestrator.services.banks import memory_of
from orchestrator.services.score import Scoring

if TYPE_CHECKING:
    from orchestrator.patchcore.inverted_file import InvertedFile

_log = structlog.get_logger()


def index_bank(record: BankRecord, scoring: Scoring) -> tuple[BankRecord, InvertedFile | None]:
    """Build the index of a bank of more rows than the rules let be compared one by one.

    Returns the record, describing its index, and the index; as it was and None for a smaller bank.
    """
    rows = len(record.embeddings)
    if not scoring.is_indexed(rows):
        return record, None
    started = time.perf_counter()
    index = scoring.index_of(memory_of(record))
    described = BankIndex("ivf", index.nlist, index.nprobe, rows, index.sha256)
    _log.info(
        "fit.index",
        kind=described.kind,
        nlist=index.nlist,
        nprobe=index.nprobe,
        rows=rows,
        bytes=len(index.data),
        elapsed_ms=round((time.perf_counter() - started) * 1e3, 3),
    )
    return replace(record, metadata=replace(record.metadata, index=described)), index
