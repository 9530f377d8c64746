from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from export.errors import BadInput, ParityRefused
from export.foreign_graph import read_graph
from export.parity import open_session, structured_images
from export.repository import PublishedVersion, list_versions
from export.third_party import ImportOptions, import_graph, parse_triple
from export.verify import verify_version
from orchestrator.domain.backbone import BackboneSpec
from tests.export.conftest import GraphWriter

REAL_WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _import(path: Path, repository: Path, **options: object) -> PublishedVersion:
    return import_graph(path, "foreign", ImportOptions(**options), repository=repository)  # type: ignore[arg-type]


def _served(published: PublishedVersion, images: np.ndarray) -> np.ndarray:
    session = open_session(onnx.load(published.directory / "model.onnx"))
    (tokens,) = session.run(["tokens"], {"image": images})
    assert tokens.dtype == np.float16
    return np.asarray(tokens.astype(np.float32))


def _convolved(path: Path, planes: np.ndarray) -> np.ndarray:
    """The foreign convolution by loops over its patches: (B, 3, H, W) -> (B, N, D), length 1."""
    weight = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    dim, _, rows, columns = weight.shape
    tokens = [
        [
            np.einsum("dchw,chw->d", weight, image[:, y : y + rows, x : x + columns])
            for y in range(0, image.shape[1], rows)
            for x in range(0, image.shape[2], columns)
        ]
        for image in planes
    ]
    features = np.array(tokens).reshape(len(planes), -1, dim)
    return np.asarray(features / np.linalg.norm(features, axis=-1, keepdims=True))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
def test_any_layout_and_type_becomes_the_contract(
    write_graph: GraphWriter, tmp_path: Path, tokens: bool, channels_first: bool, dtype: int
) -> None:
    path = write_graph(tokens=tokens, channels_first=channels_first, dtype=dtype)
    published = _import(path, tmp_path / "repository")
    images = structured_images(3, (32, 32), seed=2)
    pixels = images if dtype == TensorProto.UINT8 else (images / 255 - MEAN) / STD
    expected = _convolved(path, pixels.transpose(0, 3, 1, 2).astype(np.float64))
    tolerance = 4e-3 if dtype == TensorProto.FLOAT16 else 1e-3
    np.testing.assert_allclose(_served(published, images), expected, atol=tolerance)
    spec = BackboneSpec.from_manifest(published.manifest)
    assert (spec.input_size, spec.grid, spec.dim, spec.weights_source) == ((32, 32), (4, 4), 5, "file")
    assert published.manifest["kind"] == "imported"


def test_mean_std_and_scale_are_applied(write_graph: GraphWriter, tmp_path: Path) -> None:
    path = write_graph()
    published = _import(path, tmp_path / "r", mean=(127.0, 120.0, 110.0), std=(50.0, 60.0, 70.0), scale=1.0)
    images = structured_images(1, (32, 32), seed=2)
    pixels = (images - np.array([127.0, 120, 110])) / np.array([50.0, 60, 70])
    expected = _convolved(path, pixels.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(_served(published, images), expected, atol=1e-3)


def test_a_free_size_is_fixed_by_the_option(write_graph: GraphWriter, tmp_path: Path) -> None:
    path = write_graph(size=("h", "w"))
    with pytest.raises(BadInput, match="--input-size"):
        _import(path, tmp_path / "repository")
    published = _import(path, tmp_path / "repository", input_side=64)
    assert published.manifest["spec"]["grid"] == [8, 8]
    session = onnxruntime.InferenceSession(published.directory / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 64, 64, 3]
    assert session.get_outputs()[0].shape == ["batch", 64, 5]


def test_an_oblong_input_keeps_its_aspect_in_the_grid(write_graph: GraphWriter, tmp_path: Path) -> None:
    published = _import(write_graph(size=(32, 64), tokens=True), tmp_path / "repository")
    assert published.manifest["spec"]["grid"] == [4, 8]


def test_a_batch_fixed_at_one_is_freed(write_graph: GraphWriter, tmp_path: Path) -> None:
    published = _import(write_graph(batch=1), tmp_path / "repository")
    assert _served(published, structured_images(4, (32, 32), seed=0)).shape == (4, 16, 5)


def test_a_batch_baked_into_the_graph_is_refused(write_graph: GraphWriter, tmp_path: Path) -> None:
    with pytest.raises((BadInput, ParityRefused)):
        _import(write_graph(batch=1, baked_batch=True), tmp_path / "repository")
    assert list_versions(tmp_path / "repository", "foreign") == []


def test_one_of_several_outputs_is_named_and_the_rest_dropped(
    write_graph: GraphWriter, tmp_path: Path
) -> None:
    path = write_graph(second_output=True)
    with pytest.raises(BadInput, match="map, rectified"):
        _import(path, tmp_path / "repository")
    with pytest.raises(BadInput, match="no output 'other'"):
        _import(path, tmp_path / "repository", output="other")
    published = _import(path, tmp_path / "repository", output="map")
    model = onnx.load(published.directory / "model.onnx")
    assert "Relu" not in {node.op_type for node in model.graph.node}
    assert [output.name for output in model.graph.output] == ["tokens"]


def test_an_old_opset_is_converted(write_graph: GraphWriter, tmp_path: Path) -> None:
    published = _import(write_graph(opset=13), tmp_path / "repository")
    assert published.manifest["tools"]["opset"] == 17
    assert published.manifest["tools"]["ir"] <= 10


@pytest.mark.parametrize("prefix", [1, 5])
def test_prefix_tokens_are_refused(write_graph: GraphWriter, tmp_path: Path, prefix: int) -> None:
    path = write_graph(tokens=True, prefix_tokens=prefix)
    with pytest.raises(BadInput, match=f"a grid and {prefix} more"):
        _import(path, tmp_path / "repository")


def test_a_map_of_another_aspect_is_refused(write_graph: GraphWriter, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="aspect"):
        _import(write_graph(stride=(8, 4)), tmp_path / "repository")


def test_operators_outside_onnx_are_refused(write_graph: GraphWriter, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"com\.example"):
        _import(write_graph(domain="com.example"), tmp_path / "repository")


@pytest.mark.parametrize(
    ("graph", "options", "sentence"),
    [
        ({"batch": 4}, {}, "batch is fixed at 4"),
        ({}, {"input_side": 64}, "32 x 32 px only"),
        ({"size": ("h", "w")}, {"input_side": 0}, "must be positive"),
        ({"size": ("h", "w")}, {"input_side": 4}, "does not run"),
        ({}, {"scale": 128.0}, "must be 255 or 1"),
        ({}, {"scale": 1.0}, "give --mean and --std"),
        ({}, {"std": (1.0, 0.0, 1.0)}, "--std must be positive"),
        ({"dtype": TensorProto.UINT8}, {"mean": (0.5, 0.5, 0.5)}, "leave --mean and --std out"),
        ({"dtype": TensorProto.DOUBLE}, {}, "DOUBLE, not float or uint8"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    write_graph: GraphWriter,
    tmp_path: Path,
    graph: dict[str, object],
    options: dict[str, object],
    sentence: str,
) -> None:
    with pytest.raises(BadInput, match=sentence):
        _import(write_graph(**graph), tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a valid ONNX graph"):
        read_graph(path)
    with pytest.raises(BadInput, match="no graph file"):
        read_graph(tmp_path / "absent.onnx")


def test_the_same_graph_imported_twice_is_one_version(write_graph: GraphWriter, tmp_path: Path) -> None:
    path = write_graph()
    first = _import(path, tmp_path / "repository")
    second = _import(path, tmp_path / "repository")
    assert (first.version, first.reused, second.version, second.reused) == (1, False, 1, True)
    other = _import(path, tmp_path / "repository", padding="edge")
    assert other.version == 2


def test_an_import_is_verified_against_its_source(write_graph: GraphWriter, tmp_path: Path) -> None:
    path, repository = write_graph(), tmp_path / "repository"
    _import(path, repository)
    verify_version(repository, "foreign")
    moved = path.rename(tmp_path / "moved.onnx")
    with pytest.raises(BadInput, match="is gone"):
        verify_version(repository, "foreign")
    verify_version(repository, "foreign", source=moved)
    with pytest.raises(ParityRefused, match="not the graph that was imported"):
        verify_version(repository, "foreign", source=write_graph(stride=(4, 4)))


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "", "1,nan,2"])
def test_a_triple_is_three_finite_numbers(text: str) -> None:
    with pytest.raises(BadInput, match="--mean"):
        parse_triple("mean", text)
    assert parse_triple("mean", "0.5, 0.25,1") == (0.5, 0.25, 1.0)
    assert parse_triple("mean", None) is None


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_WEIGHTS.is_dir(), reason=f"no graphs in {REAL_WEIGHTS}")
@pytest.mark.parametrize(
    ("file", "output", "grid", "dim"),
    [
        ("resnet18_l23_tokens384.onnx", None, [16, 16], 384),
        ("resnet18_l123_pyramid.onnx", "layer2", [28, 28], 128),
        ("resnet18_l123_pyramid.onnx", "layer3", [14, 14], 256),
    ],
)
def test_a_real_resnet_is_imported(
    tmp_path: Path, file: str, output: str | None, grid: list[int], dim: int
) -> None:
    published = _import(REAL_WEIGHTS / file, tmp_path, input_side=224, output=output)
    assert (published.manifest["spec"]["grid"], published.manifest["spec"]["dim"]) == (grid, dim)
    image = structured_images(1, (224, 224), seed=4)
    source = onnxruntime.InferenceSession(REAL_WEIGHTS / file)
    pixels = ((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    (features,) = source.run([output] if output else None, {"input": pixels})
    expected = features.reshape(1, dim, -1).transpose(0, 2, 1) if features.ndim == 4 else features
    expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(_served(published, image), expected, atol=1e-3)
