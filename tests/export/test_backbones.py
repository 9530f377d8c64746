import pytest

from export.backbones import BACKBONES, find_backbone
from export.errors import BadInput


def test_every_input_is_a_whole_number_of_patches() -> None:
    for backbone in BACKBONES.values():
        assert backbone.input_size == tuple(axis * backbone.patch_size for axis in backbone.grid), (
            backbone.name
        )


@pytest.mark.parametrize(
    ("name", "grid", "layers"),
    [
        ("dinov2_vits14", (32, 32), (11,)),
        ("dinov2_vits14_reg", (32, 32), (11,)),
        ("dinov2_vitb14", (32, 32), (11,)),
        ("dinov2_vits14_518", (37, 37), (11,)),
        ("dinov2_vits14_672", (48, 48), (11,)),
        ("dinov2_vits14_l9_11", (32, 32), (9, 10, 11)),
        ("tiny", (8, 8), (2,)),
        ("scattering", (32, 32), ()),
    ],
)
def test_the_table_pins_grid_and_layers(name: str, grid: tuple[int, int], layers: tuple[int, ...]) -> None:
    backbone = find_backbone(name)
    assert (backbone.grid, backbone.layers) == (grid, layers)


def test_every_vit_applies_its_final_norm_and_is_normalised_as_imagenet() -> None:
    for backbone in BACKBONES.values():
        if backbone.kind == "vit":
            assert backbone.final_norm
            assert backbone.mean == (0.485, 0.456, 0.406)
            assert backbone.std == (0.229, 0.224, 0.225)
            assert backbone.resize.padding == "black"


def test_hub_addresses_are_those_timm_itself_uses() -> None:
    from export.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import timm

    for backbone in BACKBONES.values():
        if backbone.hub_id is not None:
            assert timm.get_pretrained_cfg(backbone.timm_id).hf_hub_id == backbone.hub_id


def test_an_unknown_backbone_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadInput, match="dinov2_vits14"):
        find_backbone("resnet")
