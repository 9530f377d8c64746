"""Against the naive server: throughput of `/infer` at four clients, and the time of a fit.

Both sides serve the same weights on the same cores, one at a time; before anything is timed, both must give the same
scores after the same fit, so that the same work is compared.
"""

from __future__ import annotations

import json

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.features.repository import MANIFEST
from tests.benchmarks.load import Body, Client, draw_pngs, fit_body, infer_body, throughput
from tests.benchmarks.rows import Figures, Row
from tests.benchmarks.servers import Plan, serve_naive, serve_ours

CLIENTS = 4
SCORE_TOLERANCE = 1e-3
"""Relative; what two ways of computing the same features may differ by."""


def run(
    plan: Plan, *, backbone: str = "dinov2_vits14", requests: int = 16, fit_images: int = 20
) -> list[Row]:
    """Measure. requests: to each side in one repeat. fit_images: posted with one fit.

    Raises RuntimeError where the two disagree about a score.
    """
    fit_pngs = draw_pngs(fit_images, first_seed=0)
    bodies = [infer_body(png) for png in draw_pngs(requests, first_seed=1000)]
    served = Figures(
        "naive",
        f"/infer, {CLIENTS} clients",
        "requests/s",
        "higher",
        requests,
        plan.threads,
        peer="naive server",
    )
    fitted = Figures(
        "naive", f"fit of {fit_images} images", "s", "lower", 1, plan.threads, peer="naive server"
    )
    with (
        serve_ours(plan, backbone) as ours,
        serve_naive(plan, backbone, seed=_seed(plan, ours.spec)) as peer,
    ):
        urls = (ours.url, peer)

        def fit_seconds(url: str, roi_id: str) -> float:
            with Client(url) as client:
                return client.post("/fit_ok", fit_body(fit_pngs, roi_id=roi_id))[1] / 1e3

        # Also the warm-up of both sides.
        for url in urls:
            fit_seconds(url, "part")
        difference = max(_scores_differ(urls, body) for body in bodies[:CLIENTS])
        if difference > SCORE_TOLERANCE:
            raise RuntimeError(f"scores differ by {difference:.2%}: the two servers do not do the same work")
        for url in urls:
            throughput(url, bodies[:CLIENTS], clients=CLIENTS)
        for repeat in range(plan.repeats):
            served.add(*(throughput(url, bodies, clients=CLIENTS) for url in urls))
            fitted.add(*(fit_seconds(url, f"fit{repeat}") for url in urls))
    served.notes = fitted.notes = (
        f"{backbone}, seeded weights; peer: tests/benchmarks/naive_server.py; scores differ by at most "
        f"{difference:.1e}, relative"
    )
    return [served.row(), fitted.row()]


def _scores_differ(urls: tuple[str, str], body: Body) -> float:
    scores = []
    for url in urls:
        with Client(url) as client:
            scores.append(float(client.post("/infer", body)[0]["score"]))
    return abs(scores[0] - scores[1]) / abs(scores[1])


def _seed(plan: Plan, spec: BackboneSpec) -> int:
    manifest = plan.repository / spec.name / str(spec.version) / MANIFEST
    return int(json.loads(manifest.read_text(encoding="utf-8"))["weights"]["seed"])
