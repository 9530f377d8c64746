"""No OK photograph is scored by a bank that holds it: the type checker and run time both say so."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.errors import SampleInBank
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import build_memory, groups_of, plan_folds, score_fold
from orchestrator.services.held_out import MemberBank, Split, score_held_out
from orchestrator.services.score import Scoring, score_against
from tests.storage.test_banks import record

ROOT = Path(__file__).parent.parent.parent
SCORING = Scoring("euclidean", 0.0)

SNIPPET = """
from orchestrator.services.held_out import MemberBank, OutOfSampleScore, Split, score_held_out
from orchestrator.services.score import Scoring

def use(split: Split, bank: MemberBank, scoring: Scoring) -> OutOfSampleScore:
    return {line}
"""
GOOD = "score_held_out(bank, split.held_out[0], scoring, 99.0)"
BAD = {
    "member": "score_held_out(bank, split.members[0], scoring, 99.0)",
    "bare_photograph": "score_held_out(bank, split.held_out[0].photograph, scoring, 99.0)",
    "bare_number": "0.5",
    "held_out_in_bank": (
        "score_held_out(MemberBank.of(split.held_out, NotImplemented, 'max'), split.held_out[0], scoring, 1)"
    ),
}


def photograph(seed: int, *, like: int | None = None) -> Embedded:
    """Make a photograph of random tokens; like another one, nearly."""
    rows = np.random.default_rng(seed if like is None else like).normal(size=(16, 8))
    rows = rows + 0.01 * np.random.default_rng(seed).normal(size=(16, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = np.ones((4, 4), np.bool_)
    return Embedded(
        rows.astype(np.float16),
        Letterbox.fit((8, 8), (8, 8)),
        np.ones((8, 8), np.bool_),
        whole,
        f"{seed:064x}",
    )


def built(members: list[Embedded]) -> NeighborSearch:
    return SCORING.search(build_memory(members, 1.0)[0])


def test_the_type_checker_rejects_scoring_by_a_bank_that_holds_the_sample(tmp_path: Path) -> None:
    for name, line in {"good": GOOD, **BAD}.items():
        (tmp_path / f"{name}.py").write_text(SNIPPET.format(line=line), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    files = [str(tmp_path / f"{name}.py") for name in ("good", *BAD)]
    checked = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=240)
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert checked.returncode == 1, checked.stdout + checked.stderr
    for name in BAD:
        assert any(f"{name}.py" in e and ("arg-type" in e or "return-value" in e) for e in errors), (
            checked.stdout
        )
    assert not any("good.py" in e for e in errors), checked.stdout


def test_run_time_refuses_a_sample_that_the_bank_holds() -> None:
    a, b = photograph(1), photograph(2)
    first, second = Split.of([a], [b]), Split.of([b], [a])
    bank = MemberBank.of(first.members, lambda m: (built(list(m)), None), "percentile")
    assert score_held_out(bank, first.held_out[0], SCORING, 99.0) > 0
    # Held out of another bank than this one: what no type can tell.
    with pytest.raises(SampleInBank, match="in the bank"):
        score_held_out(bank, second.held_out[0], SCORING, 99.0)


def test_a_split_with_a_photograph_on_both_sides_is_refused() -> None:
    with pytest.raises(SampleInBank, match="in the bank"):
        Split.of([photograph(1), photograph(2)], [photograph(2)])


def test_a_stored_bank_scores_only_what_it_does_not_hold() -> None:
    a, b = photograph(1), photograph(2)
    fitted = record()
    fitted = dataclasses.replace(
        fitted, metadata=dataclasses.replace(fitted.metadata, sample_sha256=(a.sha256,))
    )
    bank = MemberBank.stored(fitted, built([a]))
    split = Split.of((), [a, b])
    assert score_held_out(bank, split.held_out[1], SCORING, 99.0) > 0
    with pytest.raises(SampleInBank):
        score_held_out(bank, split.held_out[0], SCORING, 99.0)


def test_a_bank_that_does_not_know_what_it_holds_scores_nothing() -> None:
    unknown = dataclasses.replace(record().metadata, sample_sha256=())
    with pytest.raises(SampleInBank, match="does not know"):
        MemberBank.stored(dataclasses.replace(record(), metadata=unknown), built([photograph(1)]))


def test_every_photograph_is_scored_once_by_a_bank_of_the_other_folds() -> None:
    inside = [photograph(i) for i in range(11)]
    groups = groups_of(inside)
    splits, apart = plan_folds(inside, [], groups)
    assert (len(splits), apart) == (5, [])
    scores = [score_fold(split, 1.0, SCORING, 100.0, MemoryOptions()) for split in splits]
    assert sorted(d for fold in scores for d in fold) == sorted(p.sha256 for p in inside)
    for split, fold in zip(splits, scores, strict=True):
        others = built([m.photograph for m in split.members])
        for sample in split.held_out:
            expected = score_against(sample.photograph, others, SCORING, 100.0, "percentile", None)
            assert fold[sample.sha256] == expected
        assert len(split.members) + len(split.held_out) == 11


def test_near_duplicates_are_held_out_together() -> None:
    inside = [photograph(i) for i in range(8)] + [photograph(100 + i, like=i) for i in range(4)]
    splits, _ = plan_folds(inside, [], groups_of(inside))
    for split in splits:
        held = {int(s.sha256, 16) % 100 for s in split.held_out}
        assert not held & {int(m.sha256, 16) % 100 for m in split.members}


def test_a_photograph_like_one_in_the_bank_is_held_out_with_it_and_enters_no_bank() -> None:
    inside = [photograph(i) for i in range(8)]
    near, far = photograph(103, like=3), photograph(50)
    splits, apart = plan_folds(inside, [near, far], groups_of([*inside, near, far]))
    assert [p.sha256 for p in apart] == [far.sha256]
    (own,) = [s for s in splits if near.sha256 in {h.sha256 for h in s.held_out}]
    assert inside[3].sha256 in {h.sha256 for h in own.held_out}
    assert all(near.sha256 not in {m.sha256 for m in s.members} for s in splits)


def test_one_part_shot_again_and_again_is_still_held_out_one_by_one() -> None:
    inside = [photograph(i) for i in range(6)]
    splits, _ = plan_folds(inside, [], np.zeros(6, dtype=np.int64))
    assert len(splits) == 5
    assert all(s.members for s in splits)


def test_copies_of_what_no_fold_can_keep_out_are_scored_by_no_bank() -> None:
    copy, far = photograph(100, like=0), photograph(50)
    one = [photograph(0)]
    assert plan_folds(one, [copy, far], np.array([0, 0, 1])) == ([], [far])
    # All that the bank holds is one group: whatever fold is held out, a copy stays in.
    burst = [photograph(i, like=0) for i in range(3)]
    splits, apart = plan_folds(burst, [copy, far], np.array([0, 0, 0, 0, 1]))
    assert apart == [far]
    assert [len(s.held_out) for s in splits] == [1, 1, 1]
    assert copy.sha256 not in {h.sha256 for s in splits for h in s.held_out}


def test_a_bank_without_photographs_scores_all() -> None:
    far = [photograph(1), photograph(2)]
    assert plan_folds([], far, np.array([0, 1])) == ([], far)


def test_two_groups_make_two_folds() -> None:
    inside = [photograph(i) for i in range(6)]
    splits, _ = plan_folds(inside, [], np.array([0, 0, 0, 0, 1, 1]))
    assert sorted(len(s.held_out) for s in splits) == [2, 4]
