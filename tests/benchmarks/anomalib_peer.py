"""anomalib's coreset in an environment of its own: made once, then asked over a pipe.

Run as a script by that environment's interpreter this module is the peer; imported, it makes the environment and
starts it. The class is anomalib's, unmodified; only its own call is timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
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
    """A running peer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._ask({})

    def select(self, rows: Path, count: int, *, threads: int, seed: int) -> Selection:
        """Select from the rows in an .npy file. seed: of torch, for its projection and its first row."""
        said = self._ask({"rows": str(rows), "count": count, "threads": threads, "seed": seed})
        return Selection(said["seconds"], said["selected"])

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the anomalib peer ended with {self._process.wait()}; its words are above")
        return json.loads(answer)


@contextmanager
def anomalib_peer(cache: Path) -> Iterator[AnomalibPeer]:
    """Start the peer, in an environment that is made below `cache` where it is missing."""
    python = _environment(cache / "peers" / f"anomalib-{ANOMALIB}")
    process = subprocess.Popen(
        [str(python), "-W", "ignore", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield AnomalibPeer(process)
    finally:
        process.kill()
        process.communicate()


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

    for line in sys.stdin:
        asked = json.loads(line)
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
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
