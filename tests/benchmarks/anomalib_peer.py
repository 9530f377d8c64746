"""anomalib's coreset in an environment of its own: made once, then asked over a pipe.

Run as a script by that environment's interpreter this module is the peer; imported, it makes the environment and
starts it. The class is anomalib's, unmodified; only its own call is timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANOMALIB = "2.7.0"
_ROOT = Path(__file__).parent.parent.parent
# What importing the class asks for, found one ImportError at a time; anomalib's own list is ten times as long.
_PINNED = ("torch==2.13.0", "numpy", "scikit-learn", "pillow", "opencv-python-headless", "tqdm")
_OTHERS = (
    "jsonargparse[signatures]<4.47",
    "omegaconf",
    "lightning-utilities",
    "pandas",
    "matplotlib",
    "platformdirs",
    "tifffile",
    "scikit-image",
    "einops",
)
_WITHOUT_THEIRS = (
    f"anomalib=={ANOMALIB}",
    "lightning",
    "torchmetrics",
    "torchvision==0.28.0",
    "kornia",
    "kornia_rs",
    "timm==1.0.31",
    "FrEIA",
)


@dataclass(frozen=True, slots=True)
class Selection:
    """seconds: of `select_coreset_idxs` alone. selected: what it gave."""

    seconds: float
    selected: list[int]


class AnomalibPeer:
    """The peer: every selection runs in a process of its own, as a fit does.

    In a process that has selected before, its temporary of N x D' floats may find memory at hand that a new process has
    to be given page by page: seen, a later selection took a fifth of the first one's time, or the same.
    """

    def __init__(self, python: Path) -> None:
        self._command = [str(python), "-W", "ignore", __file__]
        self.versions: dict[str, str] = self._ask({})

    def select(self, rows: Path, count: int, *, threads: int, seed: int) -> Selection:
        """Select from the rows in an .npy file. seed: of torch, for its projection and its first row.

        Raises subprocess.CalledProcessError where it fails.
        """
        said = self._ask({"rows": str(rows), "count": count, "threads": threads, "seed": seed})
        return Selection(said["seconds"], said["selected"])

    def _ask(self, question: dict[str, Any]) -> Any:
        asked = json.dumps(question)
        answer = subprocess.run(self._command, input=asked, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(answer.stdout)


def anomalib_peer(cache: Path) -> AnomalibPeer:
    """Give the peer, in an environment that is made below `cache` where it is missing."""
    return AnomalibPeer(_environment(cache / "peers" / f"anomalib-{ANOMALIB}"))


def _environment(folder: Path) -> Path:
    python, made = folder / "bin" / "python", folder / "made"
    if made.is_file():
        return python
    sys.stderr.write(f"making {folder} for anomalib {ANOMALIB}\n")
    venv.create(folder, clear=True, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    pip += ["-c", str(_ROOT / "constraints.txt")]
    for packages in ((*_PINNED, *_OTHERS), ("--no-deps", *_WITHOUT_THEIRS)):
        subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
    made.touch()
    return python


def _serve() -> None:
    import time
    from importlib.metadata import version

    import numpy as np
    import torch

    # PyPI's torchvision is built for CUDA: beside a CPU torch its operators are absent, their schemas are asked for.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    asked = json.load(sys.stdin)
    if not asked:
        answer: Any = {name: version(name) for name in ("anomalib", "torch")}
    else:
        torch.set_num_threads(asked["threads"])
        torch.manual_seed(asked["seed"])
        rows = torch.from_numpy(np.load(asked["rows"]))
        # The half keeps int(n * ratio) from falling one short.
        sampler = KCenterGreedy(rows, (asked["count"] + 0.5) / len(rows))
        started = time.perf_counter()
        selected = sampler.select_coreset_idxs()
        answer = {"seconds": time.perf_counter() - started, "selected": selected}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _serve()
