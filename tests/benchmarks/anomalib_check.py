"""Runs in anomalib's own environment: scores photographs by the unmodified package. Imports nothing of this project.

`python anomalib_check.py GIVEN.npz SCORED.npz`. Given: bank (M, D), tokens (B, N, D), grid (2,), canvas (2,). Scored:
scores (B,), maps (B, H, W).
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")
# torchvision's operators, which anomalib never calls here, need a build that matches torch's: their schemas suffice.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from anomalib.models.image.patchcore.anomaly_map import AnomalyMapGenerator  # noqa: E402
from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # noqa: E402


def main(given_path: str, scored_path: str) -> None:
    """Score."""
    given = np.load(given_path)
    # Without the feature extractor, whose pretrained weights would be downloaded.
    model = PatchcoreModel.__new__(PatchcoreModel)
    torch.nn.Module.__init__(model)
    model.num_neighbors = 9
    model.register_buffer("memory_bank", torch.from_numpy(given["bank"]))
    draw = AnomalyMapGenerator()
    scores, maps = [], []
    with torch.no_grad():
        for tokens in torch.from_numpy(given["tokens"]):
            patch_scores, locations = model.nearest_neighbors(tokens, n_neighbors=1)
            scores.append(model.compute_anomaly_score(patch_scores[None], locations[None], tokens).item())
            grid = patch_scores.reshape(1, 1, *given["grid"].tolist())
            maps.append(draw(grid, tuple(given["canvas"].tolist()))[0, 0].numpy())
    np.savez(scored_path, scores=np.array(scores), maps=np.stack(maps))


if __name__ == "__main__":
    main(*sys.argv[1:])
