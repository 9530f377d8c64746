"""A folder of photographs: what is listed, kept back, paired with masks, or refused and why."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from orchestrator.demo.drawing import draw_set
from orchestrator.demo.photographs import PhotographFolder, read_folder, write_drawn_set
from orchestrator.errors import InvalidImage, InvalidInput


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded")


def put_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask)


def names(folder: PhotographFolder, group: str) -> list[str]:
    return [photograph.name for photograph in getattr(folder, group)]


def test_photographs_are_sorted_and_other_files_left_alone(tmp_path: Path) -> None:
    put(
        tmp_path,
        "good/b.PNG",
        "good/a.jpeg",
        "good/c.TIFF",
        "good/notes.txt",
        "good/._a.png",
        "good/.x/d.png",
    )
    put(tmp_path, "good_test/z.webp", "bad/m.BMP", "bad/k.tif", "bad/l.jpg")
    folder = read_folder(tmp_path)
    assert names(folder, "good") == ["good/a.jpeg", "good/b.PNG", "good/c.TIFF"]
    assert names(folder, "good_test") == ["good_test/z.webp"]
    assert names(folder, "bad") == ["bad/k.tif", "bad/l.jpg", "bad/m.BMP"]
    assert not folder.kept_back
    assert not folder.has_masks
    assert folder.good[0].read() == b"not decoded"
    assert folder.bad[0].read_mask((4, 4)) is None


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (3, 1), (8, 2), (41, 10)])
def test_a_seeded_quarter_of_good_is_kept_back(tmp_path: Path, count: int, kept: int) -> None:
    put(tmp_path, "bad/0.png", *(f"good/{i:03d}.png" for i in range(count)))
    folder = read_folder(tmp_path, seed=5)
    assert folder.kept_back
    assert len(folder.good_test) == kept
    assert len(folder.good) == count - kept
    assert not set(folder.good) & set(folder.good_test)
    assert names(folder, "good") == sorted(names(folder, "good"))
    assert read_folder(tmp_path, seed=5) == folder
    if count > 8:
        assert read_folder(tmp_path, seed=6) != folder


def test_a_defects_name_is_its_sub_folder_or_what_its_file_name_starts_with(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "good_test/0.png")
    put(tmp_path, "bad/scratch/001.png", "bad/bent_lead_002.jpg", "bad/003.png", "bad/Kratzer-7.png")
    put(tmp_path, "bad/Crack_exp1_num_7.jpg", "bad/new__0_1.jpg")
    kinds = {photograph.name: photograph.kind for photograph in read_folder(tmp_path).bad}
    assert kinds == {
        "bad/scratch/001.png": "scratch",
        "bad/bent_lead_002.jpg": "bent_lead",
        "bad/003.png": "bad",
        "bad/Kratzer-7.png": "Kratzer",
        "bad/Crack_exp1_num_7.jpg": "Crack",
        "bad/new__0_1.jpg": "new",
    }


def test_masks_are_paired_by_sub_folder_stem_and_the_published_suffix(tmp_path: Path) -> None:
    put(
        tmp_path,
        "good/0.png",
        "good_test/0.png",
        "bad/a/1.jpg",
        "bad/b/1.jpg",
        "bad/2.jpg",
        "bad/3.jpg",
        "bad/c/4.jpg",
    )
    put(tmp_path, "masks/a/1.png", "masks/b/1_mask.bmp", "masks/2_mask.png", "masks/4.png")
    paired = {
        p.name: p.mask_path and p.mask_path.relative_to(tmp_path).as_posix()
        for p in read_folder(tmp_path).bad
    }
    assert paired == {
        "bad/a/1.jpg": "masks/a/1.png",
        "bad/b/1.jpg": "masks/b/1_mask.bmp",
        "bad/2.jpg": "masks/2_mask.png",
        "bad/3.jpg": None,
        "bad/c/4.jpg": "masks/4.png",
    }


def test_a_mask_that_could_be_of_two_photographs_is_of_neither(tmp_path: Path) -> None:
    put(
        tmp_path,
        "good/0.png",
        "good_test/0.png",
        "bad/a/1.jpg",
        "bad/b/1.jpg",
        "bad/2.jpg",
        "masks/1.png",
        "masks/2.png",
    )
    assert [p.mask_path is not None for p in read_folder(tmp_path).bad] == [True, False, False]


def test_a_mask_is_true_above_127_and_takes_its_photographs_size(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "good_test/0.png", "bad/1.jpg")
    drawn = np.zeros((10, 20), np.uint8)
    drawn[2:4, 5:9] = 255
    drawn[8, :] = 127
    put_mask(tmp_path / "masks/1.png", drawn)
    (photograph,) = read_folder(tmp_path).bad
    same = photograph.read_mask((10, 20))
    assert same is not None
    assert np.array_equal(same, drawn == 255)
    larger = photograph.read_mask((20, 40))
    assert larger is not None
    assert np.array_equal(larger, np.kron(drawn == 255, np.ones((2, 2))) > 0)


def test_a_mask_in_colour_or_with_alpha_is_read_by_its_brightness(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "good_test/0.png", "bad/1.jpg")
    drawn = np.zeros((6, 6, 4), np.uint8)
    drawn[..., 3] = 255
    drawn[1, 2, 2] = 255
    put_mask(tmp_path / "masks/1.png", drawn)
    mask = read_folder(tmp_path).bad[0].read_mask((6, 6))
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[1, 2]]


def test_an_all_black_mask_is_empty(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "good_test/0.png", "bad/1.jpg")
    put_mask(tmp_path / "masks/1.png", np.zeros((4, 4), np.uint8))
    mask = read_folder(tmp_path).bad[0].read_mask((4, 4))
    assert mask is not None
    assert not mask.any()


def test_a_mask_that_cannot_be_right_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "good_test/0.png", "bad/1.jpg", "bad/2.jpg", "bad/3.jpg", "masks/3.png")
    put_mask(tmp_path / "masks/1.png", np.full((10, 20), 255, np.uint8))
    put_mask(tmp_path / "masks/2.png", np.eye(8, dtype=np.uint8))
    (tmp_path / "masks/3.png").write_bytes(b"")
    one, two, three = read_folder(tmp_path).bad
    with pytest.raises(InvalidImage, match="another shape"):
        one.read_mask((20, 20))
    with pytest.raises(InvalidImage, match="nowhere brighter than 1"):
        two.read_mask((8, 8))
    with pytest.raises(InvalidImage, match=r"3\.png cannot be decoded"):
        three.read_mask((8, 8))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["bad/0.png"], "has no folder good/"),
        (["good/0.png", "good/1.png"], "has no folder bad/"),
        (["good/notes.txt", "bad/0.png"], "good holds no photographs"),
        (["good/0.png", "bad/0.pdf"], "bad holds no photographs"),
        (["good/0.png", "bad/0.png"], "holds one photograph"),
        (["good/0.png", "bad/0.png", "good_test/x.txt"], "good_test holds no photographs"),
        (
            ["good/0.png", "bad/0.png", "good_test/0.png", "masks/7.png"],
            "Name each mask after its photograph",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_remedy(
    tmp_path: Path, files: list[str], sentence: str
) -> None:
    put(tmp_path, *files)
    with pytest.raises(InvalidInput, match=sentence) as raised:
        read_folder(tmp_path)
    assert str(tmp_path) in raised.value.message


def test_a_missing_folder_and_a_vanished_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no folder"):
        read_folder(tmp_path / "nowhere")
    put(tmp_path, "good/0.png", "good_test/0.png", "bad/1.jpg")
    folder = read_folder(tmp_path)
    (tmp_path / "bad/1.jpg").unlink()
    with pytest.raises(InvalidInput, match=r"1\.jpg cannot be read"):
        folder.bad[0].read()


def test_a_drawn_set_is_read_back_as_it_was_drawn(tmp_path: Path) -> None:
    drawn = draw_set(3, good=2, good_test=1, bad=4, size=(80, 96))
    folder = write_drawn_set(drawn, tmp_path / "set")
    assert [len(folder.good), len(folder.good_test), len(folder.bad)] == [2, 1, 4]
    by_kind = {str(part.kind): part for part in drawn.bad}
    for photograph in folder.bad:
        part = by_kind[photograph.kind]
        decoded = cv2.imdecode(np.frombuffer(photograph.read(), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert np.array_equal(decoded[:, :, ::-1], part.image)
        mask = photograph.read_mask((80, 96))
        assert mask is not None
        assert np.array_equal(mask, part.mask)
    assert write_drawn_set(drawn, tmp_path / "set") == folder


def test_a_drawn_set_is_not_mixed_with_other_photographs(tmp_path: Path) -> None:
    put(tmp_path, "good/mine.png")
    with pytest.raises(InvalidInput, match=r"good/mine\.png"):
        write_drawn_set(draw_set(3, good=1, good_test=1, bad=1, size=(64, 64)), tmp_path)
