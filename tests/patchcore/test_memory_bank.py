from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from tests.reference import clustered


def test_a_bank_holds_unit_rows_and_their_norms() -> None:
    bank = MemoryBank(clustered(20, 8, 3, seed=0), (4, 5))
    np.testing.assert_allclose(bank.squared_norms, 1, atol=1e-6)


def test_a_bank_cannot_be_changed() -> None:
    bank = MemoryBank(clustered(4, 8, 1, seed=0), (2, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        bank.grid = (1, 1)  # type: ignore[misc]


def test_rows_stored_as_float16_and_rows_of_zeros_are_accepted() -> None:
    rows = clustered(20, 384, 3, seed=0).astype(np.float16).astype(np.float32)
    rows[3] = 0
    assert MemoryBank(rows, (4, 5)).embeddings is rows


UNIT = clustered(6, 4, 2, seed=1)


@pytest.mark.parametrize(
    "rows",
    [
        UNIT[:0],
        UNIT[0],
        UNIT.astype(np.float64),
        np.asfortranarray(UNIT),
        UNIT[:, ::-1],
        UNIT * np.float32(1.1),
        np.where(np.eye(6, 4, dtype=np.bool_), np.float32(np.nan), UNIT),
        np.where(np.eye(6, 4, dtype=np.bool_), np.float32(np.inf), UNIT),
    ],
)
def test_a_bank_refuses_anything_else(rows: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="memory bank"):
        MemoryBank(rows, (2, 3))


def test_a_bank_refuses_an_empty_grid() -> None:
    with pytest.raises(InvalidInput, match="grid"):
        MemoryBank(UNIT, (0, 3))


def test_normalising_gives_unit_float32_rows_and_keeps_zeros() -> None:
    tokens = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float16)
    tokens[2] = 0
    rows = l2_normalise(tokens)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1, 1], atol=1e-6)


def test_normalising_leaves_its_input_alone() -> None:
    rows = UNIT * np.float32(3)
    before = rows.copy()
    l2_normalise(rows)
    np.testing.assert_array_equal(rows, before)
