"""Whether the scores of a stream of parts have drifted: an alarm that is false with probability alpha at most.

Each part is ranked among all parts before it, which gives a smoothed conformal p-value: independent and uniform as
long as the parts are exchangeable, whatever the scores' law. The first 60 parts are the reference; from the 61st on
the p-values feed a test martingale, and the alarm is its capital reaching 1/alpha. Everything follows from the
scores in order and the rules: replaying a log gives the same state, to the bit.

Source: Vovk, Nouretdinov & Gammerman 2003, "Testing Exchangeability On-Line".
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.domain.identity import Target
from orchestrator.domain.martingale import Martingale
from orchestrator.domain.ranks import Ranks

REFERENCE = 60
Direction = Literal["rising", "falling"]


@dataclass(frozen=True, slots=True)
class Stream:
    """The parts that one bank has judged by one law. fitted_at: tells apart banks whose generation numbers were used
    twice. law: names how the scores are made; a change of it moves them without any drift.
    """

    target: Target
    generation: int
    fitted_at: str
    law: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an epoch is judged by, fixed at its start. alpha: of ever raising a false alarm. seed: of random ties."""

    alpha: float
    seed: int


@dataclass(frozen=True, slots=True)
class DriftPoint:
    """The state right after one part. p_value: None within the reference. alarm: raised by this part or before."""

    sequence: int
    score: float
    p_value: float | None
    log10_martingale: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class DriftState:
    """The state after all parts so far. alarm_at, direction: None without an alarm.

    log10_max: the most that the capital has been.
    """

    stream: Stream
    epoch: int
    rules: Rules
    parts: int
    log10_martingale: float
    log10_max: float
    alarm_at: int | None
    direction: Direction | None

    @property
    def phase(self) -> Literal["reference", "watching", "alarm"]:
        """Gathering the reference, watching, or past the alarm."""
        if self.alarm_at is not None:
            return "alarm"
        return "reference" if self.parts < REFERENCE else "watching"


class TieBreaker:
    """A uniform number in [0, 1) for each part, which anybody can compute.

    The first 53 bits, big-endian, of the SHA-256 of the UTF-8 text
    `seed/recipe_id/role_id/roi_id/model_key/bank_generation/epoch/sequence`, divided by 2**53. The names are in it so
    that streams of one deployment break their ties independently.
    """

    def __init__(self, seed: int, stream: Stream, epoch: int) -> None:
        part = stream.target.part
        names = (part.recipe_id, part.role_id, part.roi_id, stream.target.model_key)
        text = "/".join((str(seed), *names, str(stream.generation), str(epoch), ""))
        self._prefix = hashlib.sha256(text.encode())

    def __call__(self, sequence: int) -> float:
        """Give the number of part `sequence`."""
        digest = self._prefix.copy()
        digest.update(b"%d" % sequence)
        return (int.from_bytes(digest.digest()[:8], "big") >> 11) / 2.0**53


class DriftTrack:
    """One epoch of a stream, replayed so far; 32 bytes a part."""

    def __init__(self, stream: Stream, epoch: int, rules: Rules) -> None:
        self.stream = stream
        self.epoch = epoch
        self.rules = rules
        self._ties = TieBreaker(rules.seed, stream, epoch)
        self._martingale = Martingale()
        self._capital = 1.0 / rules.alpha
        self._ranks = Ranks()
        self._scores = array("d")
        self._p_values = array("d")
        self._log10 = array("d")
        self._log10_max = 0.0
        self._alarm: tuple[int, Direction] | None = None

    def __len__(self) -> int:
        """Count the parts replayed."""
        return len(self._scores)

    def add(self, score: float) -> None:
        """Take the next part's score, finite."""
        sequence = len(self._scores) + 1
        greater, equal = self._ranks.add(score)
        p_value = (greater + self._ties(sequence) * (equal + 1)) / sequence
        self._scores.append(score)
        self._p_values.append(p_value)
        if sequence > REFERENCE:
            self._martingale.bet(p_value, sequence)
            if self._alarm is None and self._martingale.capital >= self._capital:
                self._alarm = sequence, self._martingale.direction
        log10 = self._martingale.log10
        self._log10.append(log10)
        self._log10_max = max(self._log10_max, log10)

    def extend(self, scores: Iterable[float]) -> None:
        """Take the next parts' scores, in order."""
        for score in scores:
            self.add(score)

    def point(self, sequence: int) -> DriftPoint:
        """Give the state right after part `sequence`, 1 to len(self)."""
        index = sequence - 1
        return DriftPoint(
            sequence,
            self._scores[index],
            self._p_values[index] if sequence > REFERENCE else None,
            self._log10[index],
            self._alarm is not None and self._alarm[0] <= sequence,
        )

    def tail(self, count: int) -> list[DriftPoint]:
        """Give the last `count` points, oldest first."""
        return [self.point(s) for s in range(max(0, len(self) - count) + 1, len(self) + 1)]

    def state(self) -> DriftState:
        """Sum up."""
        alarm_at, direction = self._alarm or (None, None)
        return DriftState(
            self.stream,
            self.epoch,
            self.rules,
            len(self),
            self._log10[-1] if self._log10 else 0.0,
            self._log10_max,
            alarm_at,
            direction,
        )


def countable(score: float) -> bool:
    """Tell whether a score can be ranked."""
    return math.isfinite(score)
