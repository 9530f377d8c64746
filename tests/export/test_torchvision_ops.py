import subprocess
import sys


def _run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_timm_is_importable_whatever_torchvision_was_built_for() -> None:
    program = (
        "from export.torchvision_ops import declare_torchvision_ops as declare; declare(); declare(); "
        "import gc; gc.collect(); import torch, warnings; warnings.simplefilter('default'); import timm; "
        "print(torch.ops.torchvision.nms.default._schema)"
    )
    assert _run(program).startswith("torchvision::nms(Tensor dets, Tensor scores, float iou_threshold)")


def test_declared_operators_are_left_alone() -> None:
    program = (
        "import torch; mine = torch.library.Library('torchvision', 'DEF'); "
        "[mine.define(f'{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor') "
        "for op in ('nms', 'qnms')]; "
        "from export import torchvision_ops as ops; ops.declare_torchvision_ops(); print(len(ops._declared))"
    )
    assert _run(program) == "0"
