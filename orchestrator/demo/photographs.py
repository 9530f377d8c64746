"""A folder of photographs of one part: `good/`, `bad/`, and optionally `good_test/` and `masks/`.

Knows names and where the bytes lie; decodes no photograph (only a mask, when asked for it). Drawn sets are
written in the same layout, so that the demo's own parts and a user's take the same way.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from orchestrator.demo.drawing import DemoSet
from orchestrator.domain.arrays import ImageArray, MaskArray
from orchestrator.errors import InvalidImage, InvalidInput

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_KEPT_BACK = 4
# Words up to the first that has a digit in it: "bent_lead" of bent_lead_002, "Crack" of Crack_exp1_num_7.
_LEADING_WORDS = re.compile(r"[^\W\d_]+(?:[ _-]+[^\W\d_]+(?![^\W_]))*")
_DEFECT_ABOVE = 127
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Photograph:
    """One file of the folder.

    name: path below the folder, with slashes. kind: "good", or the defect's name: its sub-folder of `bad/`,
    else the words its file name starts with, else "bad". mask_path: where its defect is drawn, if it is.
    """

    name: str
    path: Path
    kind: str
    mask_path: Path | None = None

    def read(self) -> bytes:
        """Read the file as it is.

        Raises InvalidInput where it cannot be read.
        """
        return _read(self.path)

    def read_mask(self, size: tuple[int, int]) -> MaskArray | None:
        """Read the defect's mask at a photograph's size (H, W) px; None where none is drawn.

        Returns (H, W) bool, true where any channel but alpha is above 127. A mask of another size but the
        same aspect is resized by nearest neighbour.

        Raises InvalidImage where it cannot be decoded, has another aspect, or is grey but nowhere above 127.
        """
        if self.mask_path is None:
            return None
        return _decode_mask(_read(self.mask_path), self.mask_path, size)


@dataclass(frozen=True, slots=True)
class PhotographFolder:
    """What a folder holds.

    good: to fit on. good_test: good ones kept from the fit. kept_back: true where good_test was taken out of
    `good/` because the folder has none.
    """

    root: Path
    good: tuple[Photograph, ...]
    good_test: tuple[Photograph, ...]
    bad: tuple[Photograph, ...]
    kept_back: bool

    @property
    def has_masks(self) -> bool:
        """Say whether localisation can be measured on at least one photograph."""
        return any(photograph.mask_path is not None for photograph in self.bad)


def read_folder(root: Path, *, seed: int = 0) -> PhotographFolder:
    """List a folder of photographs, sorted by name; sub-folders are read too.

    Without `good_test/`, a seeded quarter of `good/` is kept back: at least one, and at least one is left.

    Raises InvalidInput, with the remedy, where the folder, `good/` or `bad/` is missing or has no
    photographs.
    """
    if not root.is_dir():
        raise InvalidInput(
            f"There is no folder {root}. Name one that holds good/ and bad/ with photographs in them."
        )
    good = _photographs(root, "good")
    bad = _photographs(root, "bad")
    masks = _masks(root, bad)
    bad = tuple(Photograph(p.name, p.path, _kind(root, p.path), masks.get(p.path)) for p in bad)
    if (root / "good_test").is_dir():
        return PhotographFolder(root, good, _photographs(root, "good_test"), bad, kept_back=False)
    if len(good) < 2:
        raise InvalidInput(
            f"{root / 'good'} holds one photograph. Add at least one more, or put others in "
            f"{root / 'good_test'}: fitting and measuring need different ones."
        )
    order = np.random.default_rng(seed).permutation(len(good))
    held = set(order[: max(1, len(good) // _KEPT_BACK)].tolist())
    return PhotographFolder(
        root,
        tuple(p for i, p in enumerate(good) if i not in held),
        tuple(p for i, p in enumerate(good) if i in held),
        bad,
        kept_back=True,
    )


def write_drawn_set(drawn: DemoSet, root: Path) -> PhotographFolder:
    """Write a drawn set as PNG files in the layout that `read_folder` reads, and list it.

    Raises InvalidInput where the folder cannot be written or holds photographs of another set.
    """
    expected: set[Path] = set()
    for group, parts in (("good", drawn.good), ("good_test", drawn.good_test)):
        for i, part in enumerate(parts):
            expected.add(_write(root / group / f"{i:03d}.png", part.image))
    for i, part in enumerate(drawn.bad):
        name = f"{part.kind}_{i:03d}.png"
        expected.add(_write(root / "bad" / name, part.image))
        _write(root / "masks" / name, part.mask.astype(np.uint8) * 255)
    folder = read_folder(root)
    others = [p.name for p in (*folder.good, *folder.good_test, *folder.bad) if p.path not in expected]
    if others:
        raise InvalidInput(
            f"{root} already holds other photographs ({others[0]}). Empty it, or name another folder."
        )
    return folder


def _photographs(root: Path, group: str) -> tuple[Photograph, ...]:
    folder = root / group
    if not folder.is_dir():
        raise InvalidInput(
            f"{root} has no folder {group}/. Put photographs of "
            f"{'defective' if group == 'bad' else 'good'} parts in {folder}."
        )
    found = tuple(Photograph(p.relative_to(root).as_posix(), p, "good") for p in _image_files(folder))
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise InvalidInput(
            f"{folder} holds no photographs. Put at least one in it; these are read: {suffixes}."
        )
    return found


def _image_files(folder: Path) -> list[Path]:
    try:
        return sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be read: {error}. Check its permissions.") from error


def _kind(root: Path, path: Path) -> str:
    below = path.relative_to(root / "bad")
    if len(below.parts) > 1:
        return below.parts[0]
    words = _LEADING_WORDS.match(path.stem)
    return words.group() if words else "bad"


def _masks(root: Path, bad: Sequence[Photograph]) -> dict[Path, Path]:
    """Pair photographs with masks: by sub-folder and stem, else by stem alone where it names just one."""
    folder = root / "masks"
    if not folder.is_dir():
        return {}
    files = {_mask_key(path.relative_to(folder)): path for path in _image_files(folder)}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for key, path in files.items():
        by_stem[Path(key).name].append(path)
    twins = _count(photograph.path.stem for photograph in bad)
    paired: dict[Path, Path] = {}
    for photograph in bad:
        exact = files.get(photograph.path.relative_to(root / "bad").with_suffix("").as_posix())
        candidates = by_stem[photograph.path.stem]
        if exact is not None:
            paired[photograph.path] = exact
        elif len(candidates) == 1 and twins[photograph.path.stem] == 1:
            paired[photograph.path] = candidates[0]
    if not paired:
        raise InvalidInput(
            f"No file in {folder} has the name of a photograph in {root / 'bad'}. Name each mask after its "
            "photograph (bad/001.jpg: masks/001.png or masks/001_mask.png), or remove the folder."
        )
    return paired


def _mask_key(below: Path) -> str:
    return below.with_suffix("").as_posix().removesuffix("_mask")


def _count(stems: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for stem in stems:
        counts[stem] += 1
    return counts


def _decode_mask(data: bytes, path: Path, size: tuple[int, int]) -> MaskArray:
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        raise InvalidImage(f"The mask {path} cannot be decoded: {error}") from error
    if decoded is None:
        raise InvalidImage(f"The mask {path} cannot be decoded. Save it again, as PNG.")
    grey: ImageArray = np.asarray(decoded, dtype=np.uint8).max(axis=2)
    if 0 < grey.max() <= _DEFECT_ABOVE:
        raise InvalidImage(
            f"The mask {path} is nowhere brighter than {grey.max()}. Draw defects in white (255) on black."
        )
    mask: MaskArray = grey > _DEFECT_ABOVE
    if mask.shape == size:
        return mask
    if abs(mask.shape[1] / mask.shape[0] / (size[1] / size[0]) - 1) > _ASPECT_TOLERANCE:
        raise InvalidImage(
            f"The mask {path} is {mask.shape[1]}×{mask.shape[0]} px, another shape than its photograph's "
            f"{size[1]}×{size[0]} px. Draw the mask on the photograph itself."
        )
    return np.asarray(
        cv2.resize(mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}. Check that it is there and readable."
        ) from error


def _write(path: Path, pixels: ImageArray) -> Path:
    ordered = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(ordered))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}. Name another folder.") from error
    return path
