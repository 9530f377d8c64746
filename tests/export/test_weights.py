from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.backbones import find_backbone
from export.errors import BadInput
from export.weights import RANDOM_LAYER_SCALE, load_features, read_checkpoint
from tests.export.conftest import vit_of

TINY = find_backbone("tiny")


def _vit(weights: str, seed: int = 0) -> Any:
    features, _ = load_features(TINY, weights, seed=seed)
    return vit_of(features)


def _state(seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in _vit("random", seed).state_dict().items()}


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_random_weights_follow_their_seed_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = _state(0), _state(0), _state(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    _assert_same(first, again)
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])


def test_random_weights_open_every_layer_scale() -> None:
    gammas = [value for name, value in _state().items() if name.endswith(".gamma")]
    assert len(gammas) == 2 * 3
    assert all(bool((gamma == RANDOM_LAYER_SCALE).all()) for gamma in gammas)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_local_checkpoint_is_read_back_exactly(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    state, path = _state(3), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    features, provenance = load_features(TINY, str(path), seed=0)
    _assert_same(vit_of(features).state_dict(), state)
    assert (provenance.source, provenance.file) == ("file", str(path))
    assert provenance.sha256 is not None
    assert len(provenance.sha256) == 64
    _, random = load_features(TINY, "random", seed=3)
    assert provenance.state_sha256 == random.state_sha256


def test_a_position_embedding_of_another_grid_is_resampled(tmp_path: Path) -> None:
    state = _state()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((1, 64, 4, 4), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic", align_corners=False)
    prefix = state["pos_embed"][:, :1]
    state["pos_embed"] = torch.cat([prefix, fine.flatten(2).transpose(1, 2)], dim=1)
    path = tmp_path / "other_grid.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    loaded = _vit(str(path)).state_dict()["pos_embed"]
    assert loaded.shape == (1, 65, 64)
    assert torch.equal(loaded[:, :1], prefix)
    expected = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bicubic", align_corners=False)
    error = (loaded[:, 1:].transpose(1, 2).reshape(1, 64, 8, 8) - expected).abs().mean()
    assert error < 0.15 * expected.abs().mean()


def test_the_original_dinov2_names_are_understood(tmp_path: Path) -> None:
    state = _state()
    state["mask_token"] = torch.zeros(1, 64)
    path = tmp_path / "dinov2.pth"
    torch.save(state, path)
    assert "mask_token" not in _vit(str(path)).state_dict()


def test_keys_that_do_not_match_are_named(tmp_path: Path) -> None:
    state = _state()
    del state["norm.weight"]
    state["head.weight"] = torch.zeros(2, 64)
    path = tmp_path / "wrong.safetensors"
    save_file(state, path)
    with pytest.raises(BadInput, match=r"1 keys missing \(such as norm.weight\), 1 keys unexpected"):
        load_features(TINY, str(path), seed=0)


def test_a_checkpoint_of_another_width_is_refused(tmp_path: Path) -> None:
    state = _state() | {"norm.weight": torch.ones(32)}
    path = tmp_path / "wide.safetensors"
    save_file(state, path)
    with pytest.raises(BadInput, match="does not fit"):
        load_features(TINY, str(path), seed=0)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/patchlight_must_not_exist", "w"))  # type: ignore[return-value]


def test_a_checkpoint_is_never_run_as_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": _Evil()}, path)
    with pytest.raises(BadInput, match="cannot be read as weights"):
        read_checkpoint(path)
    assert not Path("/tmp/patchlight_must_not_exist").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read as weights"):
        read_checkpoint(path)


def test_a_file_of_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(BadInput, match="no plain dictionary of tensors"):
        read_checkpoint(path)


def test_a_missing_file_and_weights_nobody_has_are_refused() -> None:
    with pytest.raises(BadInput, match="no weights file"):
        load_features(TINY, "/nowhere/weights.pth", seed=0)
    with pytest.raises(BadInput, match="no pretrained weights for tiny"):
        load_features(TINY, "pretrained", seed=0)


def test_scattering_takes_no_weights() -> None:
    with pytest.raises(BadInput, match="has no weights"):
        load_features(find_backbone("scattering"), "random", seed=0)
