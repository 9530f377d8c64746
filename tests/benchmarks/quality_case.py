"""The name of one figure of the suite `quality`: written into a row's case, read back by the table."""

from __future__ import annotations

from dataclasses import astuple, dataclass

FULL = "full"
MEAN = "mean of sets"
MAP = "map"
CHOSEN = "chosen on the other sets"
DEPLOYED = "P99"
"""The product's threshold where it is given no bad part."""


@dataclass(frozen=True, slots=True)
class QualityCase:
    """Which figure, of what.

    set_name: or `MEAN`. shots: good photographs that were fitted, or `FULL` for all. rate: coreset rate. option: how
    banks are made. rule: of the image score, `MAP` where the anomaly map is judged, `CHOSEN` where the rule is the one
    that did best on the other sets. figure: such as "image AUROC", "AUPRO" or "escape at P99".
    """

    set_name: str
    backbone: str
    shots: str
    rate: float
    option: str
    rule: str
    figure: str

    def __str__(self) -> str:
        return "/".join(f"{part:g}" if isinstance(part, float) else part for part in astuple(self))

    @classmethod
    def parse(cls, text: str) -> QualityCase:
        """Read a row's case. Raises ValueError where it names no such figure."""
        set_name, backbone, shots, rate, option, rule, figure = text.split("/")
        return cls(set_name, backbone, shots, float(rate), option, rule, figure)
