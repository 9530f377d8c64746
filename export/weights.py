"""Puts weights into a backbone's features and remembers where they came from.

Checkpoints are read as tensors only, never as code, and must fit key by key.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from export.backbones import Backbone
from export.errors import BadInput
from export.graph import VitTokens, build_features
from export.hub import fetch_checkpoint
from export.provenance import WeightsProvenance, file_sha256

# timm starts LayerScale at 1e-5: the blocks of an untrained ViT then add nothing that a comparison could see.
RANDOM_LAYER_SCALE = 0.5


def load_features(backbone: Backbone, weights: str, *, seed: int) -> tuple[nn.Module, WeightsProvenance]:
    """Build a backbone's features with weights in them.

    weights: "pretrained", "random" (drawn from seed, LayerScale at 0.5) or a `.safetensors` or `.pth` path.

    Raises BadInput, HubUnreachable.
    """
    if backbone.kind == "scattering":
        if weights not in ("pretrained", "none"):
            raise BadInput("The scattering backbone has no weights; leave --weights out.")
        return build_features(backbone), WeightsProvenance("none")
    if weights == "random":
        vit = _build_vit(backbone, seed)
        _open_layer_scale(vit)
        return vit, WeightsProvenance("random", seed=seed, state_sha256=_state_sha256(vit.vit))
    # The file first: where there is none, nobody waits for a model to be built.
    hub_id = _hub_id(backbone) if weights == "pretrained" else None
    path = fetch_checkpoint(hub_id) if hub_id else Path(weights).expanduser()
    state = read_checkpoint(path)
    vit = _build_vit(backbone, seed)
    _load_into(vit.vit, state, path)
    return vit, WeightsProvenance(
        "pretrained" if hub_id else "file",
        file=None if hub_id else str(path.resolve()),
        sha256=file_sha256(path),
        hub_id=hub_id,
        state_sha256=_state_sha256(vit.vit),
    )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name, out of a `model` or `state_dict` wrapper where it has one.

    Raises BadInput where the file is missing, of another format, or holds more than tensors.
    """
    if not path.is_file():
        raise BadInput(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} cannot be read as weights: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadInput(f"{path} holds no plain dictionary of tensors.")
    return loaded


def _build_vit(backbone: Backbone, seed: int) -> VitTokens:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = build_features(backbone)
    if not isinstance(features, VitTokens):
        raise TypeError(f"{backbone.name} is not a ViT")
    return features


def _hub_id(backbone: Backbone) -> str:
    if backbone.hub_id is None:
        raise BadInput(
            f"There are no pretrained weights for {backbone.name}; use --weights random or a file."
        )
    return backbone.hub_id


def _load_into(vit: Any, state: dict[str, Tensor], path: Path) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        # timm's own filter: translates the original DINOv2 names and resamples the position embedding.
        state = checkpoint_filter_fn(state, vit)
        missing, unexpected = vit.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"{path} does not fit this backbone: {reason}") from error
    if missing or unexpected:
        raise BadInput(
            f"{path} does not fit this backbone: {_count(missing, 'missing')}, "
            f"{_count(unexpected, 'unexpected')}."
        )


def _count(keys: list[str], what: str) -> str:
    return f"{len(keys)} keys {what}" + (f" (such as {keys[0]})" if keys else "")


def _open_layer_scale(vit: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if name.endswith(".gamma"):
                parameter.fill_(RANDOM_LAYER_SCALE)


def _state_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
