"""A test martingale against "nothing has changed": capital that grows where p-values stop being uniform.

Fed with independent uniform p-values its expected capital never rises, so that it ever reaches 1/alpha with
probability alpha at most (Ville's inequality). Only + - * / on doubles, in the order written here, so that anybody
gets the same bits in any language. Knows p-values; neither scores nor targets.

Source: Vovk, Gammerman & Shafer 2022, "Algorithmic Learning in a Random World", ch. 8 (conformal test martingales);
Shin, Ramdas & Rinaldo 2022, "E-detectors" (mixtures over the moment of change).
"""

from __future__ import annotations

import math
from typing import Literal

DEGREES = (1, 2, 4, 8)
RISING_SHARE = 3 / 16
FALLING_SHARE = 1 / 16
STOP_AT = 2.0**512


class Martingale:
    """The capital of an average over all moments at which a change may begin.

    It starts as 1, all of it waiting. At part t, 1/(2t) of what waits is staked for good: 3/16 of it on each bet that
    scores have risen, 1/16 on each that they have fallen. A bet of degree k multiplies its stake by
    (k+1)(1-p)^k where scores rise and by (k+1)p^k where they fall; both densities integrate to 1 on [0, 1]. A change
    that comes late finds capital that was never risked, hence the waiting. At 2**512 the game ends, so that no double
    overflows: a martingale that is stopped still is one.
    """

    __slots__ = ("capital", "falling", "rising", "waiting")

    def __init__(self) -> None:
        self.waiting = 1.0
        self.rising = [0.0] * len(DEGREES)
        self.falling = [0.0] * len(DEGREES)
        self.capital = 1.0

    def bet(self, p_value: float, part: int) -> None:
        """Stake on what part number `part`, counted from 1, brings: p_value in [0, 1], then settle."""
        if self.capital >= STOP_AT:
            return
        staked = self.waiting / (2 * part)
        self.waiting -= staked
        up, down = staked * RISING_SHARE, staked * FALLING_SHARE
        q, p = 1.0 - p_value, p_value
        q2, p2 = q * q, p * p
        q4, p4 = q2 * q2, p2 * p2
        r, f = self.rising, self.falling
        r[0] = (r[0] + up) * (2.0 * q)
        r[1] = (r[1] + up) * (3.0 * q2)
        r[2] = (r[2] + up) * (5.0 * q4)
        r[3] = (r[3] + up) * (9.0 * (q4 * q4))
        f[0] = (f[0] + down) * (2.0 * p)
        f[1] = (f[1] + down) * (3.0 * p2)
        f[2] = (f[2] + down) * (5.0 * p4)
        f[3] = (f[3] + down) * (9.0 * (p4 * p4))
        self.capital = self.waiting + r[0] + r[1] + r[2] + r[3] + f[0] + f[1] + f[2] + f[3]

    @property
    def log10(self) -> float:
        """The capital's decimal logarithm."""
        return math.log10(self.capital)

    @property
    def direction(self) -> Literal["rising", "falling"]:
        """Which bets hold more."""
        return "rising" if sum(self.rising) >= sum(self.falling) else "falling"
