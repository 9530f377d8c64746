"""An outsider's replay of the drift alarm, from what `/infer` answered; written from the published rule alone.

Naive on purpose: every part is compared with every part before it. Imports nothing of the product.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

REFERENCE = 60


def tie(seed: int, names: str, sequence: int) -> float:
    """Give the uniform number of a part. names: recipe/role/roi/model key/generation/epoch."""
    digest = hashlib.sha256(f"{seed}/{names}/{sequence}".encode()).hexdigest()
    return int(digest[:16], 16) // 2**11 / 2**53


def replay(scores: Iterable[float], *, names: str, seed: int = 0, alpha: float = 0.01) -> dict[str, Any]:
    """Give the state after the scores, in order, and every p-value and capital on the way."""
    past: list[float] = []
    p_values, curve = [], []
    waiting, up, down = 1.0, [0.0] * 4, [0.0] * 4
    alarm_at = direction = None
    for t, score in enumerate(scores, 1):
        greater = sum(s > score for s in past)
        equal = sum(s == score for s in past)
        p = (greater + tie(seed, names, t) * (equal + 1)) / t
        past.append(score)
        capital = waiting + up[0] + up[1] + up[2] + up[3] + down[0] + down[1] + down[2] + down[3]
        if t > REFERENCE and capital < 2.0**512:
            stake = waiting / (2 * t)
            waiting -= stake
            for i, k in enumerate((1, 2, 4, 8)):
                up[i] = (up[i] + stake * (3 / 16)) * ((k + 1) * _power(1 - p, k))
                down[i] = (down[i] + stake * (1 / 16)) * ((k + 1) * _power(p, k))
            capital = waiting + up[0] + up[1] + up[2] + up[3] + down[0] + down[1] + down[2] + down[3]
            if alarm_at is None and capital >= 1 / alpha:
                alarm_at, direction = t, "rising" if sum(up) >= sum(down) else "falling"
        p_values.append(None if t <= REFERENCE else p)
        curve.append(math.log10(capital))
    return {
        "parts": len(past),
        "alarm_at": alarm_at,
        "direction": direction,
        "log10_martingale": curve[-1] if curve else 0.0,
        "log10_max": max(curve, default=0.0),
        "p_values": p_values,
        "curve": curve,
    }


def replay_answers(answers: Iterable[Mapping[str, Any]], **rules: Any) -> dict[str, Any]:
    """Replay the answers of `/infer` for one target, generation and epoch, in whatever order they were noted.

    An epoch ends with a reset and pauses while scores are made in another way: part them by their epoch first.

    Fails where their sequence has a hole, or two answers for the same part disagree.
    """
    parts: dict[int, float] = {}
    names = set()
    for answer in answers:
        drift = answer["drift"]
        ids = [answer[k] for k in ("recipe_id", "role_id", "roi_id", "model_key", "bank_generation")]
        names.add("/".join([*map(str, ids), str(drift["epoch"])]))
        assert parts.setdefault(drift["sequence"], drift["score"]) == drift["score"]
    assert sorted(parts) == list(range(1, len(parts) + 1))
    (name,) = names
    return replay((parts[s] for s in sorted(parts)), names=name, **rules)


def _power(x: float, k: int) -> float:
    # Squaring again and again: k is 1, 2, 4 or 8.
    return x if k == 1 else _power(x, k // 2) * _power(x, k // 2)
