"""The server a user would otherwise write: one process, torch inside, textbook PatchCore, one lock.

Straightforward, not slow on purpose: the same weights, resize rule, coreset rate and score as the product; timm's
fused attention, batches while fitting, unit tokens so that a distance pass is one product, and the lock is held only
for what needs it. Run by `uvicorn --factory`; NAIVE_BACKBONE, NAIVE_SEED and NAIVE_THREADS configure it.

Source: Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection".
"""

from __future__ import annotations

import base64
import io
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from fastapi import FastAPI, File, Form, UploadFile
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from export.backbones import find_backbone
from export.graph import build_graph
from export.weights import load_features

CORESET_RATE = 0.10
BATCH_SIZE = 8
SCORE_PERCENTILE = 99
BLUR_SIGMA = 1.0
_SEED = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """score: a percentile of the anomaly map. heatmap_png: the map, stretched to 0..255."""

    score: float
    heatmap_png: bytes


class NaivePatchCore:
    """A backbone and one bank a target, behind one lock."""

    def __init__(self, backbone: str, *, seed: int, threads: int) -> None:
        torch.set_num_threads(threads)
        row = find_backbone(backbone)
        features, _ = load_features(row, "random", seed=seed)
        self._model = build_graph(row, features)
        for module in self._model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True  # type: ignore[assignment]
        self._input_size = row.input_size
        self._grid = row.grid
        self._banks: dict[tuple[str, str], NearestNeighbors] = {}
        self._lock = threading.Lock()

    def fit(self, target: tuple[str, str], files: Sequence[bytes]) -> int:
        """Build the target's bank from good photographs; gives its rows."""
        images = [self._resize(_decode(data)) for data in files]
        with self._lock:
            tokens = [self._tokens(images[i : i + BATCH_SIZE]) for i in range(0, len(images), BATCH_SIZE)]
            rows = torch.cat(tokens).flatten(0, 1)
            bank = rows[greedy_coreset(rows, CORESET_RATE)].numpy()
            self._banks[target] = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
        return len(bank)

    def infer(self, target: tuple[str, str], file: bytes) -> Judged:
        """Score a square photograph."""
        pixels = _decode(file)
        image = self._resize(pixels)
        with self._lock:
            queries = self._tokens([image])[0].numpy()
            distances, _ = self._banks[target].kneighbors(queries)
        grid = distances.reshape(self._grid).astype(np.float32)
        anomaly = cv2.resize(grid, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
        kernel = round(3 * BLUR_SIGMA) * 2 + 1
        anomaly = cv2.GaussianBlur(anomaly, (kernel, kernel), BLUR_SIGMA)
        low, high = np.percentile(anomaly, [1, 99])
        heat = np.clip((anomaly - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
        png = cv2.imencode(".png", heat)[1].tobytes()
        return Judged(float(np.percentile(anomaly, SCORE_PERCENTILE)), png)

    def _tokens(self, images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> Tensor:
        with torch.inference_mode():
            tokens: Tensor = self._model(torch.from_numpy(np.stack(images))).float()
            return torch.nn.functional.normalize(tokens, dim=-1)

    def _resize(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        height, width = self._input_size
        shrinks = height * width < pixels.shape[0] * pixels.shape[1]
        rule = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=rule), dtype=np.uint8)


def greedy_coreset(rows: Tensor, rate: float) -> list[int]:
    """Pick rows by greedy k-center selection, one distance pass over all rows a centre.

    rows: (N, D) float32 of length 1: the squared distance of two is 2 - 2 times their product.
    """
    count = max(1, math.ceil(rate * len(rows)))
    selected = [int(np.random.default_rng(_SEED).integers(0, len(rows)))]
    nearest = 2 - 2 * (rows @ rows[selected[0]])
    while len(selected) < count:
        farthest = int(nearest.argmax())
        selected.append(farthest)
        nearest = torch.minimum(nearest, 2 - 2 * (rows @ rows[farthest]))
    return selected


def _decode(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.uint8)


def create_app() -> FastAPI:
    """Build the application and its model."""
    app = FastAPI()
    patchcore = NaivePatchCore(
        os.environ["NAIVE_BACKBONE"],
        seed=int(os.environ["NAIVE_SEED"]),
        threads=int(os.environ["NAIVE_THREADS"]),
    )

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/fit_ok")
    def fit_ok(
        role_id: Annotated[str, Form()],
        roi_id: Annotated[str, Form()],
        images: Annotated[list[UploadFile], File()],
    ) -> dict[str, int]:
        return {"coreset_size": patchcore.fit((role_id, roi_id), [image.file.read() for image in images])}

    @app.post("/infer")
    def infer(
        role_id: Annotated[str, Form()], roi_id: Annotated[str, Form()], image: Annotated[UploadFile, File()]
    ) -> dict[str, float | str]:
        judged = patchcore.infer((role_id, roi_id), image.file.read())
        return {"score": judged.score, "heatmap_png_base64": base64.b64encode(judged.heatmap_png).decode()}

    return app
