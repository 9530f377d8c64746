"""anomalib's PatchCore scoring, step by step in NumPy: the peer where thousands of photographs are scored.

Its search is left out: both sides are given the same nearest rows of the same bank, so that scoring alone differs.
`anomalib_check` compares it with the unmodified package.

Source: anomalib 2.7.0, models/image/patchcore/torch_model.py and anomaly_map.py (Apache-2.0).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray

VERSION = "2.7.0"
PEER = f"anomalib {VERSION} scoring"
NUM_NEIGHBORS = 9
SIGMA = 4
_KERNEL = 2 * int(4.0 * SIGMA + 0.5) + 1


def pred_score(
    patch_scores: FloatArray, locations: IndexArray, embedding: FloatArray, bank: FloatArray
) -> float:
    """Follow `PatchcoreModel.compute_anomaly_score` for one photograph.

    patch_scores, locations: (n,) nearest distances and bank rows. embedding: (n, D). bank: (M, D).
    """
    max_patch = int(patch_scores.argmax())
    score = float(patch_scores[max_patch])
    nn_sample = bank[locations[max_patch]][None]
    support = np.argsort(_euclidean_dist(nn_sample, bank)[0], kind="stable")[: min(NUM_NEIGHBORS, len(bank))]
    distances = _euclidean_dist(embedding[max_patch][None], bank[support])[0].astype(np.float64)
    softmax = np.exp(distances) / np.exp(distances).sum()
    return float((1 - softmax[0]) * score)


def anomaly_map(patch_scores: FloatArray, patches: MaskArray, canvas: tuple[int, int]) -> FloatArray:
    """Follow `AnomalyMapGenerator`: nearest-neighbour upsampling to the network's input, then a Gaussian of sigma 4.

    patch_scores: (R, C). patches: (R, C) bool; what does not count (padding, which anomalib does not know) takes the
    value of its nearest that does, so that nothing bleeds in. canvas: (H, W) px. Returns (H, W).
    """
    nearest = ndimage.distance_transform_edt(~patches, return_distances=False, return_indices=True)
    filled = patch_scores[tuple(nearest)].astype(np.float32)
    upsampled = cv2.resize(filled, (canvas[1], canvas[0]), interpolation=cv2.INTER_NEAREST)
    blurred = cv2.GaussianBlur(upsampled, (_KERNEL, _KERNEL), SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.float32)


def _euclidean_dist(x: FloatArray, y: FloatArray) -> FloatArray:
    squared = -2 * (x @ y.T) + (x**2).sum(-1, keepdims=True) + (y**2).sum(-1, keepdims=True).T
    distances: FloatArray = np.sqrt(np.maximum(squared, 0))
    return distances
