"""The training-free backbone: its shape, its determinism, and that it sees what it should."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import Tensor

from export.scattering import ScatteringFeatures

SIZE, GRID = 224, 16
CELL = SIZE // GRID

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def features() -> ScatteringFeatures:
    return ScatteringFeatures(input_size=SIZE, grid=GRID).eval()


def plate(seed: int = 0, size: int = SIZE) -> npt.NDArray[np.float32]:
    """A brushed plate, (size, size, 3) in [0, 1]."""
    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    brushed = cv2.GaussianBlur(noise, (0, 0), sigmaX=3.0, sigmaY=0.7)
    grey = 0.5 + 0.1 * brushed / brushed.std()
    tint = np.array([1.0, 0.95, 0.9], dtype=np.float32)
    image: npt.NDArray[np.float32] = np.clip(grey[..., None] * tint, 0, 1).astype(np.float32)
    return image


def as_batch(*images: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def tokens_of(features: ScatteringFeatures, *images: npt.NDArray[np.float32]) -> Tensor:
    """What a memory bank would hold: L2-normalised float16, read back as float32."""
    with torch.no_grad():
        tokens: Tensor = torch.nn.functional.normalize(features(as_batch(*images)), dim=2).half().float()
    return tokens


def test_tokens_have_the_promised_shape_and_type(features: ScatteringFeatures) -> None:
    with torch.no_grad():
        tokens = features(as_batch(plate(0), plate(1)))
    assert tokens.shape == (2, GRID * GRID, features.dim)
    assert tokens.dtype == torch.float32


def test_the_default_is_a_32_by_32_grid_on_448_pixels_with_at_most_384_values_a_token() -> None:
    features = ScatteringFeatures()
    with torch.no_grad():
        tokens = features(torch.full((1, 3, 448, 448), 0.5))
    assert tokens.shape == (1, 1024, features.dim)
    assert features.dim <= 384


def test_nothing_is_learned_and_nothing_is_random(features: ScatteringFeatures) -> None:
    assert list(features.parameters()) == []
    torch.manual_seed(7)
    again = ScatteringFeatures(input_size=SIZE, grid=GRID)
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in features.state_dict().items())


def test_an_image_gives_the_same_tokens_alone_as_in_a_batch(features: ScatteringFeatures) -> None:
    images = [plate(seed) for seed in range(3)]
    together = tokens_of(features, *images)
    for index, image in enumerate(images):
        torch.testing.assert_close(tokens_of(features, image)[0], together[index], atol=1e-3, rtol=0)


def test_a_shift_by_one_cell_shifts_the_tokens(features: ScatteringFeatures) -> None:
    # A shift that is no multiple of the coarsest octave's step leaves a small aliasing residue.
    wide = plate(3, SIZE + CELL)
    here = tokens_of(features, wide[:SIZE, :SIZE]).reshape(GRID, GRID, -1)[4:-4, 4:-4]
    shifted = tokens_of(features, wide[:SIZE, CELL:]).reshape(GRID, GRID, -1)
    moved = (shifted[4:-4, 3:-5] - here).norm(dim=2).mean()
    unmoved = (shifted[4:-4, 4:-4] - here).norm(dim=2).mean()
    assert moved < 0.35 * unmoved


def test_a_scratch_changes_the_tokens_where_it_is(features: ScatteringFeatures) -> None:
    clean = plate(4)
    scratched = clean.copy()
    cv2.line(scratched, (5 * CELL + 3, 9 * CELL), (8 * CELL, 12 * CELL), (0.75, 0.72, 0.68), 2, cv2.LINE_AA)
    change = (tokens_of(features, scratched) - tokens_of(features, clean))[0].norm(dim=1).reshape(GRID, GRID)
    row, column = divmod(int(change.argmax()), GRID)
    assert 9 <= row <= 12
    assert 5 <= column <= 8
    far = change.clone()
    far[5:, 1:13] = 0
    assert far.max() < 0.2 * change.max()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_image_gives_finite_tokens_that_can_be_normalised(
    features: ScatteringFeatures, level: float
) -> None:
    flat = np.full((SIZE, SIZE, 3), level, dtype=np.float32)
    with torch.no_grad():
        raw = features(as_batch(flat))
    assert torch.isfinite(raw).all()
    assert raw.norm(dim=2).min() > 0.1
    tokens = tokens_of(features, flat)[0]
    torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens), atol=5e-3, rtol=0)


def test_onnx_gives_the_tokens_of_torch_at_any_batch(features: ScatteringFeatures) -> None:
    example = torch.zeros(2, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        # torch 2.13's own pytree does this on every export.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            features,
            (example,),
            input_names=["rgb"],
            output_names=["tokens"],
            opset_version=18,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = as_batch(*(plate(seed) for seed in range(batch)))
        (served,) = session.run(None, {"rgb": images.numpy()})
        with torch.no_grad():
            expected = features(images).numpy()
        assert served.shape == expected.shape
        assert np.abs(served - expected).max() <= 1e-4
