"""anomalib in an environment of its own: is our transcription of its scoring the package's?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from orchestrator.services.folds import build_memory
from orchestrator.services.score import patch_distances
from tests.benchmarks import anomalib_scoring
from tests.benchmarks.quality_evaluation import SCORING
from tests.benchmarks.quality_subjects import Subject, subject
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan

TOLERANCE = 1e-5
_SCRIPT = Path(__file__).with_name("anomalib_check.py")
_PHOTOGRAPHS, _FITTED = 16, 2


def interpreter(plan: Plan) -> Path | None:
    """Give the interpreter of anomalib's environment, which the suite `coreset` makes; None before."""
    folder = plan.repository.parent / "peers" / f"anomalib-{anomalib_scoring.VERSION}"
    return folder / "bin" / "python" if (folder / "made").is_file() else None


def verify(plan: Plan, sets: Sequence[str], backbones: Sequence[str]) -> list[Row]:
    """Compare the transcription with the unmodified package: the largest relative difference of scores and maps.

    On the first set whose photographs need no padding, which anomalib does not know. Gives no row where anomalib is
    not installed. Raises RuntimeError where they differ by more than `TOLERANCE`.
    """
    python = interpreter(plan)
    if python is None:
        sys.stderr.write(
            "quality: anomalib's environment is not made yet; its transcription is not verified\n"
        )
        return []
    rows = []
    for backbone in backbones:
        for name in sets:
            measured = subject(plan, name, backbone)
            if all(p.patches.all() for p in (*measured.good, *measured.good_test, *measured.bad)):
                rows.append(_verify(plan, python, measured))
                break
    return rows


def _verify(plan: Plan, python: Path, measured: Subject) -> Row:
    photographs = [*measured.bad, *measured.good_test][:_PHOTOGRAPHS]
    memory = build_memory(measured.good[:_FITTED], 1.0)[0]
    search = SCORING.search(memory)
    grid, canvas = photographs[0].patches.shape, photographs[0].box.canvas
    with TemporaryDirectory(prefix="patchlight-bench-") as scratch:
        given, scored = Path(scratch) / "given.npz", Path(scratch) / "scored.npz"
        tokens = np.stack([p.queries for p in photographs])
        np.savez(given, bank=memory.embeddings, tokens=tokens, grid=grid, canvas=canvas)
        subprocess.run([python, _SCRIPT, given, scored], stdout=sys.stderr, check=True)
        with np.load(scored) as package:
            scores, maps = package["scores"], package["maps"]
    worst = 0.0
    for photograph, score, drawn in zip(photographs, scores, maps, strict=True):
        found = patch_distances(photograph, search)
        ours = anomalib_scoring.pred_score(
            found.distances.ravel(), found.rows.ravel(), photograph.queries, memory.embeddings
        )
        map_ours = anomalib_scoring.anomaly_map(found.distances, photograph.patches, canvas)
        worst = max(worst, abs(ours - score) / score, float(np.abs(map_ours - drawn).max() / drawn.max()))
    if worst > TOLERANCE:
        raise RuntimeError(f"the transcription of anomalib's scoring is off by {worst:.1e}, relative")
    figures = Figures(
        "quality",
        f"transcription of anomalib, {measured.backbone}",
        "relative difference",
        "lower",
        len(photographs),
        plan.threads,
        f"largest, of image scores and maps, to the unmodified package on {measured.name}",
        shape=Shape(n=len(memory.embeddings), d=memory.embeddings.shape[1], tokens=measured.tokens),
        peer_versions={"anomalib": anomalib_scoring.VERSION},
    )
    figures.add(worst)
    return figures.row()
