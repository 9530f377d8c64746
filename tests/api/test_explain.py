"""`explain=true` and `/explain`: against brute force over the stored crops, and what they say where less is known."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from orchestrator.domain.letterbox import Letterbox
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.services.embed import Photograph, RawShape, prepare
from orchestrator.services.explain_sheet import ASKED, INSET, MARGIN, PANEL, STORED
from orchestrator.settings import Settings
from tests.conftest import MakeClient
from tests.gui import Answer, Gui, files_of, ok, refused
from tests.pictures import bad, encode, good, part, png
from tests.reference import Floats
from tests.triton_fixtures import call

GRID = (8, 8)
CIRCLE = {"kind": "circle", "cx": 60, "cy": 50, "r": 30}
RECT = {"kind": "rect", "x": 30, "y": 20, "w": 60, "h": 50}


@dataclass(frozen=True)
class Crop:
    """A photograph's patches that count, and their unit tokens, as the bank stores them."""

    name: str
    box: Letterbox
    patches: list[tuple[int, int]]
    tokens: Floats


class Reference:
    """Recomputes tokens with the in-process extractor, and compares them one by one."""

    def __init__(self, repository: Path) -> None:
        models = ModelRepository(repository)
        self._spec = models.spec("tiny", models.versions("tiny")[-1])
        self._extractor = OnnxExtractor(models, threads=1)

    def crop(self, name: str, data: bytes, shape: RawShape = None) -> Crop:
        """Embed a photograph."""
        prepared = prepare(Photograph(data, name, shape), self._spec, ImageLimits(1 << 25, 1 << 26))
        tokens = asyncio.run(self._extractor.extract(prepared.canvases, self._spec, call()))[0]
        counted = [(int(r), int(c)) for r, c in np.argwhere(prepared.patches)]
        return Crop(name, prepared.box, counted, _units(tokens)[[r * GRID[1] + c for r, c in counted]])

    def stored(self, gui: Gui) -> list[Crop]:
        """Embed every stored good photograph, masked by its own ROI."""
        names = ok(gui.get("/datasets/list"))["classes"]["ok"]["files"]
        crops = []
        for name in names:
            data = gui.get("/datasets/file", label="ok", filename=name).content
            meta = ok(gui.get("/datasets/meta", label="ok", filename=name))
            crops.append(self.crop(name, data, meta.get("shape_json")))
        return crops

    def close(self) -> None:
        """Let the extractor go."""
        asyncio.run(self._extractor.close())


def _units(tokens: Any) -> Floats:
    exact = np.asarray(tokens, dtype=np.float64)
    halves = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    units: Floats = halves / np.linalg.norm(halves, axis=1, keepdims=True)
    return units


@pytest.fixture
def reference(tiny_repository: Path) -> Any:
    """Give the brute force."""
    reference = Reference(tiny_repository)
    yield reference
    reference.close()


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is fitted from good photographs, every patch kept."""
    gui = Gui(client)
    ok(gui.fit(good(5), memory_fit="true"))
    return gui


def brute_force(asked: Crop, stored: Sequence[Crop], kept: Floats | None = None) -> dict[str, Any]:
    """Compare every patch with every stored one, or with the `kept` rows alone; the first of equals stands."""
    worst: tuple[float, dict[str, Any]] = (-1.0, {})
    for (row, column), token in zip(asked.patches, asked.tokens, strict=True):
        least, nearest = math.inf, (stored[0], (0, 0))
        for crop in stored:
            for patch, other in zip(crop.patches, crop.tokens, strict=True):
                distance = math.sqrt(float(((token - other) ** 2).sum()))
                if distance < least and (kept is None or np.abs(kept - other).max(axis=1).min() < 1e-6):
                    least, nearest = distance, (crop, patch)
        if least > worst[0]:
            crop, patch = nearest
            worst = (
                least,
                {
                    "patch": [row, column],
                    **_at(asked.box, (row, column)),
                    "distance": least,
                    "nearest": {"sample": crop.name, "patch": list(patch), **_at(crop.box, patch)},
                },
            )
    return worst[1]


def _at(box: Letterbox, patch: tuple[int, int]) -> dict[str, float]:
    scale = max(box.crop) / 112
    left, top = (112 - box.crop[1] / scale) / 2, (112 - box.crop[0] / scale) / 2
    return {"x": ((patch[1] + 0.5) * 14 - left) * scale, "y": ((patch[0] + 0.5) * 14 - top) * scale}


def agrees(explanation: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare an answer with brute force; the letterbox rounds to a pixel, which is a fraction of one in the crop."""
    assert explanation["patch"] == expected["patch"]
    assert explanation["distance"] == pytest.approx(expected["distance"], abs=5e-4)
    assert explanation["nearest"]["sample"] == expected["nearest"]["sample"]
    assert explanation["nearest"]["patch"] == expected["nearest"]["patch"]
    for answer, wanted in ((explanation, expected), (explanation["nearest"], expected["nearest"])):
        assert (answer["x"], answer["y"]) == (
            pytest.approx(wanted["x"], abs=1.0),
            pytest.approx(wanted["y"], abs=1.0),
        )


def turned(image: Image.Image) -> bytes:
    """Encode a photograph lying on its side, with the orientation that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def mixed() -> list[bytes]:
    """Give good photographs of all kinds: wide, tall, thin, lying, twice the same pixels in other bytes."""
    same = Image.fromarray(part(3))
    return [
        *good(2),
        png(part(2, size=(128, 96))),
        encode(same, "PNG"),
        encode(same, "BMP"),
        turned(Image.fromarray(part(4, size=(60, 150)))),
        encode(Image.fromarray(part(5)).convert("L"), "TIFF"),
    ]


def asked() -> list[tuple[bytes, RawShape]]:
    """Give photographs to ask about, some with an ROI."""
    return [
        (bad(1)[0], None),
        (bad(1, size=(150, 60))[0], None),
        (turned(Image.fromarray(part(1003, bad=True))), None),
        (bad(1, start=1001)[0], CIRCLE),
        (bad(1, start=1002)[0], RECT),
        (png(part(77)), None),
    ]


def explained(gui: Gui, image: bytes, shape: RawShape = None, **fields: str) -> dict[str, Any]:
    text = None if shape is None else json.dumps(shape)
    body = ok(gui.infer(image, explain="true", shape=text, include_heatmap="false", **fields))
    explanation: dict[str, Any] = body["explanation"]
    return explanation


def sheet(gui: Gui, image: bytes, **fields: str) -> Answer:
    return gui.post("/explain", [("image", ("crop.png", image, "image/png"))], **fields)


def pixels_of(answer: Answer) -> Any:
    assert answer.status_code == 200, answer.text[:400]
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("PNG", (3 * MARGIN + 2 * PANEL, 3 * MARGIN + PANEL + INSET))
    return np.asarray(image)


@pytest.mark.usefixtures("feature_backend")
def test_it_agrees_with_brute_force_over_all_stored_crops(client: TestClient, reference: Reference) -> None:
    gui = Gui(client)
    ok(gui.fit(mixed(), memory_fit="true"))
    stored = reference.stored(gui)
    assert len(stored) == 7
    for image, shape in asked():
        expected = brute_force(reference.crop("asked", image, shape), stored)
        agrees(explained(gui, image, shape), expected)


def test_it_agrees_with_brute_force_over_the_rows_that_a_coreset_kept(
    client: TestClient, reference: Reference, settings: Settings
) -> None:
    gui = Gui(client)
    shapes = [{}, {"shape_json": CIRCLE}, {"shape_json": json.dumps(RECT)}, {}, {}, {}]
    ok(gui.upload("ok", [*mixed()[:5], mixed()[6]], shapes))
    fitted = ok(gui.fit(use_dataset="true"))
    assert fitted["coreset_size"] < fitted["n_embeddings"] / 5
    (bank,) = (settings.data_root / "recipes").rglob("*.npz")
    with np.load(bank) as content:
        kept = _units(content["emb"])
    stored = reference.stored(gui)
    for image, shape in asked():
        expected = brute_force(reference.crop("asked", image, shape), stored, kept)
        agrees(explained(gui, image, shape), expected)


def test_the_distance_is_the_one_that_the_map_was_drawn_from(gui: Gui, make_client: MakeClient) -> None:
    image = bad(1)[0]
    euclidean = explained(gui, image)
    sharp = Gui(make_client(blur_sigma=0, score_percentile=100))
    score = ok(sharp.infer(image, explain="true"))
    # No pixel's centre lies on a token's centre here: the map's maximum is a little less.
    assert 0.99 < score["score"] / score["explanation"]["distance"] < 1
    cosine = explained(Gui(make_client(distance="cosine")), image)
    assert cosine["distance"] == pytest.approx(euclidean["distance"] ** 2 / 2, rel=1e-6)
    assert cosine["nearest"] == euclidean["nearest"]


def test_a_stored_photograph_is_most_like_itself(gui: Gui) -> None:
    name = ok(gui.get("/datasets/list"))["classes"]["ok"]["files"][2]
    data = gui.get("/datasets/file", label="ok", filename=name).content
    explanation = explained(gui, data)
    assert explanation["distance"] < 2e-3
    assert explanation["nearest"]["sample"] == name
    assert explanation["nearest"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert explanation["nearest"]["patch"] == explanation["patch"]
    assert (explanation["nearest"]["x"], explanation["nearest"]["y"]) == (explanation["x"], explanation["y"])


def test_patches_outside_the_roi_explain_nothing(gui: Gui) -> None:
    away = {"kind": "rect", "x": 0, "y": 0, "w": 16, "h": 16}
    whole, masked = explained(gui, bad(1)[0]), explained(gui, bad(1)[0], away)
    assert whole["patch"] != [1, 0]
    assert masked["patch"] == [1, 0]
    assert masked["distance"] < whole["distance"]


def test_it_is_null_unless_asked_for(gui: Gui) -> None:
    for sent in (None, "false", "0", ""):
        assert ok(gui.infer(good(1)[0], explain=sent))["explanation"] is None
    assert ok(gui.post("/predict", [("image", ("a.png", good(1)[0]))]))["scores"][0]["explanation"] is None
    assert ok(gui.post("/predict/batch", files_of(good(1))))["results"][0]["explanation"] is None
    assert ok(gui.json("/infer_dataset", explain=False))["items"][0]["explanation"] is None
    refused(gui.infer(good(1)[0], explain="perhaps"), 422, "explain")
    refused(gui.json("/infer_dataset", explain="true"), 422, "explain")


def test_every_inspecting_route_explains(gui: Gui) -> None:
    images = [bad(1)[0], b"broken", good(1, start=60)[0]]
    expected = [explained(gui, images[0]), None, explained(gui, images[2])]
    one = ok(gui.post("/predict", [("image", ("a.png", images[0]))], explain="true"))
    batch = ok(gui.post("/predict/batch", files_of(images), explain="true"))["results"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, image in enumerate(images):
            archive.writestr(f"{index}.png", image)
    files = [("zip_file", ("x.zip", packed.getvalue()))]
    zipped = ok(gui.post("/predict/zip", files, explain="true"))["results"]
    ok(gui.upload("ng", images[:1]))
    dataset = ok(gui.json("/infer_dataset", explain=True))["items"]
    for answers in (
        [one["scores"][0], None, batch[2]],
        batch,
        zipped,
        [next(i for i in dataset if i["label"] == "ng"), None, batch[2]],
    ):
        for answer, wanted in zip(answers, expected, strict=True):
            explanation = answer and answer["explanation"]
            if wanted is None:
                assert explanation is None
            else:
                assert explanation == {**wanted, "distance": pytest.approx(wanted["distance"], rel=1e-3)}
    own = [i for i in dataset if i["label"] == "ok"]
    assert [i["explanation"]["nearest"]["sample"] for i in own] == [i["filename"] for i in own]


def test_both_pictures_show_the_marked_patches(gui: Gui) -> None:
    image = bad(1)[0]
    explanation = explained(gui, image)
    seen = pixels_of(sheet(gui, image, mm_per_px="0.2"))
    (row, column), (near_row, near_column) = explanation["patch"], explanation["nearest"]["patch"]
    # 128 x 96 px, five times: a patch is 80 px wide, and the grid's first row of content is its second.
    left, top = MARGIN + 80 * column, MARGIN + 80 * row
    near_left, near_top = 2 * MARGIN + PANEL + 80 * near_column, MARGIN + 80 * near_row
    for x, y, colour in ((left, top, ASKED), (near_left, near_top, STORED)):
        for at in ((y - 1, x + 40), (y + 80, x + 40), (y + 40, x - 1), (y + 40, x + 80)):
            assert tuple(seen[at]) == colour
        assert tuple(seen[y + 1, x + 1]) != colour
    crop = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
    good_name = explanation["nearest"]["sample"]
    stored = gui.get("/datasets/file", label="ok", filename=good_name).content
    near = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)
    for x in range(8, 128, 24):
        for y in range(8, 96, 24):
            shown = seen[MARGIN + 80 + 5 * y + 2, MARGIN + 5 * x + 2].astype(int)
            beside = seen[MARGIN + 80 + 5 * y + 2, 2 * MARGIN + PANEL + 5 * x + 2].astype(int)
            assert np.abs(shown - crop[y, x]).max() <= 8 or tuple(shown) in (ASKED, (255, 255, 255))
            assert np.abs(beside - near[y, x]).max() <= 8 or tuple(beside) in (STORED, (255, 255, 255))


def test_the_picture_is_drawn_for_whatever_can_be_inspected(gui: Gui) -> None:
    deep = Image.fromarray(part(9)[..., 0].astype(np.uint16) << 8)
    see_through = Image.fromarray(part(9)).convert("RGBA")
    for data in (
        png(part(9, size=(1, 1))),
        png(part(9, size=(1, 20_000))),
        png(part(9, size=(900, 2))),
        encode(deep, "PNG"),
        encode(see_through, "PNG"),
        encode(Image.fromarray(part(9)).convert("L"), "JPEG"),
        turned(Image.fromarray(part(9, bad=True))),
    ):
        pixels_of(sheet(gui, data))
    upright, lying = (
        sheet(gui, encode(Image.fromarray(part(9)), "PNG")),
        sheet(gui, turned(Image.fromarray(part(9)))),
    )
    np.testing.assert_array_equal(pixels_of(upright), pixels_of(lying))


def test_a_photograph_that_is_gone_is_named_by_its_digest(gui: Gui) -> None:
    image = bad(1)[0]
    before, shown = explained(gui, image), pixels_of(sheet(gui, image))
    gone = before["nearest"]
    assert ok(gui.delete("/datasets/file", label="ok", filename=gone["sample"]))["deleted"]
    after = explained(gui, image)
    assert after == {**before, "nearest": {**gone, "sample": None, "x": None, "y": None}}
    told = pixels_of(sheet(gui, image))
    np.testing.assert_array_equal(told[:, : MARGIN + PANEL], shown[:, : MARGIN + PANEL])
    assert not (told == STORED).all(axis=2).any()
    index = int(np.flatnonzero([hashlib.sha256(d).hexdigest() == gone["sha256"] for d in good(5)])[0])
    (again,) = ok(gui.upload("ok", good(1, start=index)))["saved"]
    assert explained(gui, image)["nearest"] == {**gone, "sample": again}


def test_a_photograph_that_is_now_over_the_limits_is_still_named(gui: Gui, make_client: MakeClient) -> None:
    strict, image = Gui(make_client(max_image_pixels=10_000)), png(part(1, bad=True, size=(60, 80)))
    before, after = explained(gui, image), explained(strict, image)
    assert before["nearest"]["x"] is not None
    assert after == {**before, "nearest": {**before["nearest"], "x": None, "y": None}}
    assert not (pixels_of(sheet(strict, image)) == STORED).all(axis=2).any()


def test_a_legacy_bank_explains_the_patch_alone_and_asking_locks_no_scale(
    make_client: MakeClient, settings: Settings
) -> None:
    ok(Gui(make_client(), **{"X-Recipe-Id": "source"}).fit(good(4), memory_fit="true"))
    (ours,) = (settings.data_root / "recipes" / "source").rglob("*.npz")
    with np.load(ours) as bank:
        rows = bank["emb"].astype(np.float32)
    np.savez(
        settings.data_root / "Inspection_inspection-1.npz",
        emb=rows,
        token_h=8,
        token_w=8,
        metadata=np.array("{}"),
    )
    gui = Gui(make_client(legacy_backbone="tiny"))
    seen = pixels_of(sheet(gui, bad(1)[0], mm_per_px="0.7"))
    assert (seen == ASKED).all(axis=2).any()
    assert not (seen == STORED).all(axis=2).any()
    assert ok(gui.get("/manifest"))["mm_per_px"] is None
    explanation = explained(gui, bad(1)[0])
    assert explanation["nearest"] is None
    assert explanation["distance"] > 0.1


def test_what_cannot_be_explained_is_refused_with_the_remedy(gui: Gui, make_client: MakeClient) -> None:
    image = good(1)[0]
    missing = sheet(Gui(gui.client, roi="unfitted"), image)
    refused(missing, 400, "Memoria no encontrada", "memory not fitted", "/fit_ok")
    refused(sheet(gui, b"broken"), 400, "crop.png")
    refused(sheet(gui, image, shape='{"kind": "star"}'), 400, "shape")
    refused(sheet(gui, image, mm_per_px="0"), 400, "mm_per_px")
    refused(sheet(gui, image, mm_per_px="0.9"), 409, "0.2", "0.9")
    refused(sheet(gui, image, recipe_id="last"), 400, "last")
    refused(gui.post("/explain", []), 422, "image")
    refused(sheet(Gui(make_client(max_image_pixels=5000)), image), 413, "pixels")
    refused(sheet(Gui(make_client(require_calibration=True)), image), 428, "calibration_missing")
    named = Gui(gui.client, **{"X-Request-Id": "why-7"})
    assert sheet(named, image).headers["x-request-id"] == "why-7"
    assert sheet(named, image).headers["x-recipe-id"] == "default"
