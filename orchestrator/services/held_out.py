"""Scores of OK photographs by banks that do not hold them, and no other kind.

A split says of every photograph whether the bank may be built from it or is to be scored by it. A bank takes members
only, `score_held_out` takes held-out samples only: the type checker sees the difference. The type cannot say of
which bank: so the bank also knows the digests that it holds, and refuses a sample that is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NewType, TypeVar

from orchestrator.domain.bank import BankRecord
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.errors import SampleInBank
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.score import Scoring, score_against

OutOfSampleScore = NewType("OutOfSampleScore", float)
"""The image score of an OK photograph by a bank that does not hold it; `score_held_out` makes them."""

ClientScore = NewType("ClientScore", float)
"""A score that the client has measured and answers for."""


class Member:
    """The standing of a sample that a bank is built from."""


class HeldOut:
    """The standing of a sample that is kept out of a bank."""


Standing = TypeVar("Standing", Member, HeldOut)


@dataclass(frozen=True, slots=True, eq=False)
class Sample(Generic[Standing]):
    """An OK photograph with its standing towards one bank."""

    photograph: Embedded

    @property
    def sha256(self) -> str:
        """The digest of its bytes."""
        return self.photograph.sha256


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """OK photographs parted into what a bank is built from and what it is to score.

    Raises SampleInBank where a photograph is in both.
    """

    members: tuple[Sample[Member], ...]
    held_out: tuple[Sample[HeldOut], ...]

    def __post_init__(self) -> None:
        _refuse(frozenset(m.sha256 for m in self.members), self.held_out)

    @classmethod
    def of(cls, members: Sequence[Embedded], held_out: Sequence[Embedded]) -> Split:
        """Give photographs their standings. Raises SampleInBank where one is in both."""
        into: list[Sample[Member]] = [Sample(m) for m in members]
        kept: list[Sample[HeldOut]] = [Sample(h) for h in held_out]
        return cls(tuple(into), tuple(kept))


@dataclass(frozen=True, slots=True, eq=False)
class MemberBank:
    """A searchable bank, how it scores, and the digests of the photographs that it holds.

    axis: of its foreground, None where every patch counts.
    """

    search: NeighborSearch
    digests: frozenset[str]
    rule: ScoreRule
    axis: ForegroundAxis | None

    @classmethod
    def of(
        cls,
        members: Sequence[Sample[Member]],
        build: Callable[[Sequence[Embedded]], tuple[NeighborSearch, ForegroundAxis | None]],
        rule: ScoreRule,
    ) -> MemberBank:
        """Build a bank from members."""
        search, axis = build([m.photograph for m in members])
        return cls(search, frozenset(m.sha256 for m in members), rule, axis)

    @classmethod
    def stored(cls, record: BankRecord, search: NeighborSearch) -> MemberBank:
        """Take a fitted bank.

        Raises SampleInBank where it does not know what it holds, so that any photograph may be in it.
        """
        digests = frozenset(record.metadata.sample_sha256)
        if not digests:
            raise SampleInBank("the bank does not know which photographs it holds; it may hold any.")
        return cls(search, digests, record.metadata.options.score_rule, record.foreground)


def score_held_out(
    bank: MemberBank, sample: Sample[HeldOut], scoring: Scoring, percentile: float
) -> OutOfSampleScore:
    """Give the image score of an OK photograph that the bank does not hold.

    Raises SampleInBank where it does.
    """
    _refuse(bank.digests, (sample,))
    score = score_against(sample.photograph, bank.search, scoring, percentile, bank.rule, bank.axis)
    return OutOfSampleScore(score)


def _refuse(digests: frozenset[str], samples: Sequence[Sample[HeldOut]]) -> None:
    for sample in samples:
        if sample.sha256 in digests:
            raise SampleInBank(
                f"the OK photograph {sample.sha256[:12]} is in the bank that was to score it; nothing was scored."
            )
