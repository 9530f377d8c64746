"""Judges a part's stored samples, a batch at a time, each by its own ROI and scale."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.identity import Target
from orchestrator.domain.samples import Label
from orchestrator.domain.scale import DEFAULT_MM_PER_PX
from orchestrator.errors import NotFound, PatchlightError
from orchestrator.features.base import CallContext
from orchestrator.services.embed import RawShape
from orchestrator.services.inspect import Inspector
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.verdict import Inspection, Verdict


@dataclass(frozen=True, slots=True)
class DatasetVerdict:
    """One stored sample's verdict, or the error that kept it from one."""

    label: Label
    filename: str
    mm_per_px: float | None
    outcome: Verdict | PatchlightError


async def inspect_dataset(
    inspector: Inspector,
    reader: SampleReader,
    target: Target,
    labels: Sequence[Label],
    context: CallContext,
    *,
    shape: RawShape,
    mm_per_px: float | None,
    include_heatmap: bool,
    explain: bool = False,
) -> list[DatasetVerdict]:
    """Judge all samples of the labels, in the order listed.

    shape: stands above the samples' own. mm_per_px: for samples without their own.

    Raises what `Inspector.check` and the extractor raise: then no sample could be judged.
    """
    await asyncio.to_thread(inspector.check, target)
    names = await asyncio.to_thread(
        lambda: [(label, n) for label in dict.fromkeys(labels) for n in reader.names(target.part, label)]
    )
    verdicts: list[DatasetVerdict] = []
    async with inspector.admitted():
        for start in range(0, len(names), inspector.batch_size):
            batch = names[start : start + inspector.batch_size]
            read = await asyncio.gather(
                *(asyncio.to_thread(_read, reader, target, *name, shape) for name in batch)
            )
            scales = [_scale(r, mm_per_px) for r in read]
            inspections = [
                Inspection(target, r.photograph, scale, include_heatmap, lock_scale=False, explain=explain)
                for r, scale in zip(read, scales, strict=True)
                if isinstance(r, ReadSample)
            ]
            judged = iter(await inspector.inspect_many(inspections, context) if inspections else [])
            for (label, filename), sample, scale in zip(batch, read, scales, strict=True):
                if isinstance(sample, NotFound):
                    continue
                outcome = next(judged) if isinstance(sample, ReadSample) else sample
                verdicts.append(DatasetVerdict(label, filename, scale, outcome))
    return verdicts


def _read(
    reader: SampleReader, target: Target, label: Label, filename: str, shape: RawShape
) -> ReadSample | PatchlightError:
    try:
        return reader.one(target.part, label, filename, shape)
    except PatchlightError as error:
        return error


def _scale(sample: ReadSample | PatchlightError, mm_per_px: float | None) -> float:
    own = sample.mm_per_px if isinstance(sample, ReadSample) else None
    return own or mm_per_px or DEFAULT_MM_PER_PX
