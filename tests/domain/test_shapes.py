from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.shapes import Annulus, Circle, Rect, Shape, parse_shape
from orchestrator.errors import InvalidInput

SIZE = (100, 200)


@pytest.mark.parametrize("raw", [None, "", "  \n", "{}", {}, '""', '"{}"', "null"])
def test_nothing_means_the_whole_image(raw: Any) -> None:
    assert parse_shape(raw, SIZE) is None


@pytest.mark.parametrize(
    ("raw", "shape"),
    [
        ({"kind": "rect"}, Rect(0, 0, 200, 100)),
        ({"kind": "RECT", "x": 1, "y": 2, "w": 3, "h": 4}, Rect(1, 2, 3, 4)),
        ({"x": 1, "y": 2, "w": 3, "h": 4}, Rect(1, 2, 3, 4)),
        ({"kind": "rect", "x": 50}, Rect(50, 0, 150, 100)),
        ({"kind": "Circle"}, Circle(100, 50, 50)),
        ({"kind": "circle", "cx": 20.5, "cy": 30, "r": 10.25}, Circle(20.5, 30, 10.25)),
        ({"kind": "annulus"}, Annulus(100, 50, 50, 0)),
        ({"kind": "annulus", "cx": 50, "cy": 50, "r": 40, "r_inner": 10}, Annulus(50, 50, 40, 10)),
        ({"kind": "annulus", "cx": 50, "cy": 50, "ro": 40, "ri": 10}, Annulus(50, 50, 40, 10)),
        ({"kind": "annulus", "r": 40, "inner_radius": 10}, Annulus(100, 50, 40, 10)),
        ({"shape": "Annulus", "r": 40, "ri": 10, "angle_deg": 30}, Annulus(100, 50, 40, 10)),
        ({"cx": 50, "cy": 50, "ri": 10, "ro": 40}, Annulus(50, 50, 40, 10)),
        ({"kind": "annulus", "r": 40, "ro": 40.0, "ri": 10}, Annulus(100, 50, 40, 10)),
        ({"kind": " circle ", "r": 5, "note": [1]}, Circle(100, 50, 5)),
        ({"kind": "rect", "r": -1, "cx": "x"}, Rect(0, 0, 200, 100)),
    ],
)
def test_shapes_are_read_from_mappings_text_and_text_in_text(raw: dict[str, Any], shape: Shape) -> None:
    assert parse_shape(raw, SIZE) == shape
    assert parse_shape(json.dumps(raw), SIZE) == shape
    assert parse_shape(json.dumps(json.dumps(raw)), SIZE) == shape


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "rect", "x": -1, "y": -1, "w": 202, "h": 102},
        {"kind": "rect", "x": 200, "y": 100, "w": 1, "h": 1},
        {"kind": "circle", "cx": 50, "cy": 50, "r": 51},
        {"kind": "circle", "cx": -1, "cy": -1, "r": 1e-9},
    ],
)
def test_one_pixel_outside_is_accepted(raw: dict[str, Any]) -> None:
    assert parse_shape(raw, SIZE) is not None


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("{", "JSON"),
        ("not json", "JSON"),
        ("[1, 2]", "JSON object"),
        ("3", "JSON object"),
        ("true", "JSON object"),
        ([], "JSON object"),
        (json.dumps(json.dumps(json.dumps({"kind": "rect"}))), "JSON object"),
        ("[" * 100_000, "JSON"),
        ('{"x":' * 100_000, "JSON"),
        ('{"kind": "rect", "x": ' + "9" * 5000 + "}", "JSON"),
        ({"kind": "polygon"}, "'kind'"),
        ({"kind": ""}, "'kind'"),
        ({"kind": 3}, "'kind'"),
        ({"kind": None}, "'kind'"),
        ({"shape": "hexagon"}, "'kind'"),
        ({"shape": {"kind": "rect"}}, "'shape'"),
        ({"kind": "rect", "x": "1"}, "'x'"),
        ({"kind": "rect", "x": None}, "'x'"),
        ({"kind": "rect", "y": True}, "'y'"),
        ({"kind": "rect", "w": [1]}, "'w'"),
        ({"kind": "rect", "w": 0}, "'w'"),
        ({"kind": "rect", "h": -5}, "'h'"),
        ({"kind": "rect", "w": 10**400}, "'w'"),
        ('{"kind": "rect", "w": 1e400}', "'w'"),
        ('{"kind": "rect", "w": NaN}', "'w'"),
        ('{"kind": "rect", "w": -Infinity}', "'w'"),
        ({"kind": "rect", "x": -1.01}, "'x'"),
        ({"kind": "rect", "x": 1e308, "w": 1e308}, "'x'"),
        ({"kind": "rect", "x": 201}, "'x'"),
        ({"kind": "rect", "x": 10, "w": 192}, "'w'"),
        ({"kind": "rect", "y": 10, "h": 92}, "'h'"),
        ({"kind": "circle", "r": 0}, "'r'"),
        ({"kind": "circle", "r": -1}, "'r'"),
        ({"kind": "circle", "r": 51.5}, "'r'"),
        ({"kind": "circle", "cx": 10}, "'cx'"),
        ({"kind": "annulus", "r_inner": -1}, "'r_inner'"),
        ({"kind": "annulus", "r": 10, "r_inner": 10}, "'r_inner'"),
        ({"kind": "annulus", "r": 10, "ri": 11}, "'r_inner'"),
        ({"kind": "annulus", "r": 10, "ro": 11}, "'ro'"),
        ({"kind": "annulus", "r": 10, "ri": "5"}, "'ri'"),
    ],
)
def test_a_shape_that_cannot_be_meant_is_refused_by_name(raw: Any, named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_shape(raw, SIZE)
    assert refused.value.message.startswith("shape:")
    assert named in refused.value.message
    assert len(refused.value.message) < 250


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["kind", "shape", "x", "y", "w", "h", "cx", "cy", "r", "ro", "ri", "r_inner", "z"])
kinds = st.fixed_dictionaries({"kind": st.sampled_from(["rect", "circle", "annulus"])})


@settings(deadline=None, max_examples=150)
@given(kinds, st.dictionaries(keys.filter(lambda k: k != "kind"), json_values, max_size=5), json_values)
def test_any_json_is_a_shape_or_a_refusal(kind: dict[str, Any], fields: dict[str, Any], loose: Any) -> None:
    for raw in (json.dumps({**kind, **fields}), json.dumps(loose), {**kind, **fields}):
        answer: object
        try:
            answer = parse_shape(raw, SIZE)
        except InvalidInput as refused:
            answer = refused.message
        assert (
            answer is None or isinstance(answer, Rect | Circle | Annulus) or str(answer).startswith("shape:")
        )
