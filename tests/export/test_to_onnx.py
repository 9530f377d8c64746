from pathlib import Path

import numpy as np
import onnx
import pytest

from export.errors import BadInput, ParityRefused
from export.parity import open_session, structured_images
from export.repository import list_versions
from export.to_onnx import export_backbone


def test_input_and_output_are_the_contract(tiny_model: onnx.ModelProto) -> None:
    session = open_session(tiny_model)
    (image,), (tokens,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 112, 112, 3])
    assert (tokens.name, tokens.type, tokens.shape) == ("tokens", "tensor(float16)", ["batch", 64, 64])


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_batch_is_dynamic_and_images_do_not_touch(tiny_model: onnx.ModelProto, batch: int) -> None:
    session = open_session(tiny_model)
    images = structured_images(batch, (112, 112), seed=batch)
    (together,) = session.run(None, {"image": images})
    (last,) = session.run(None, {"image": images[-1:]})
    assert together.shape == (batch, 64, 64)
    assert together.dtype == np.float16
    np.testing.assert_allclose(together[-1:], last, atol=1e-3)


def test_tokens_have_length_one(tiny_model: onnx.ModelProto) -> None:
    (tokens,) = open_session(tiny_model).run(None, {"image": structured_images(2, (112, 112), seed=1)})
    np.testing.assert_allclose(np.linalg.norm(tokens.astype(np.float32), axis=-1), 1.0, atol=2e-3)


def test_the_graph_is_standard_onnx_with_native_layer_norms(tiny_model: onnx.ModelProto) -> None:
    assert {node.domain for node in tiny_model.graph.node} == {""}
    assert not tiny_model.functions
    assert [(entry.domain, entry.version) for entry in tiny_model.opset_import] == [("", 20)]
    assert tiny_model.ir_version <= 10
    # Two a block and the final one.
    assert sum(node.op_type == "LayerNormalization" for node in tiny_model.graph.node) == 2 * 3 + 1


def test_nothing_in_the_file_tells_of_the_machine(tiny_directory: Path) -> None:
    content = (tiny_directory / "model.onnx").read_bytes()
    for trace in (b"/site-packages/", b'File "', b".py", b"stack_trace", b"pytorch"):
        assert trace not in content


def test_nothing_is_written_where_parity_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.parity.MAX_ABS_FP32", 0.0)
    with pytest.raises(ParityRefused, match="before its last cast"):
        export_backbone("tiny", weights="random", repository=tmp_path)
    assert list_versions(tmp_path, "tiny") == []
    assert list(tmp_path.iterdir()) == []


def test_stages_are_announced_in_order(tmp_path: Path) -> None:
    announced: list[str] = []
    with pytest.raises(BadInput):
        export_backbone("tiny", weights="/nowhere.pth", repository=tmp_path, on_stage=announced.append)
    assert announced == ["loading weights"]
