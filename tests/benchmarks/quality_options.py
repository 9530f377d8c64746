"""The table of ways to make banks: an option is one more entry here, and every figure is measured for it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.memory_options import MemoryOptions, Tiling
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import build_memory
from orchestrator.services.foreground import check_foreground, find_foreground, keep_foreground
from tests.benchmarks.photographs import RESNET
from tests.benchmarks.quality_subjects import Subject, subject
from tests.benchmarks.servers import Plan

_WINDOW_PX, _OVERLAP_PX = 256, 64


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A bank, and the axis of its foreground, if it has one."""

    memory: MemoryBank
    axis: ForegroundAxis | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One way from photographs to scores, as the product takes it.

    memory: the bank's options. only: the backbones that it is measured with, all by default.
    """

    memory: MemoryOptions
    only: tuple[str, ...] = ()

    def load(self, plan: Plan, set_name: str, backbone: str) -> Subject:
        """Give a set as this option embeds it."""
        return subject(plan, set_name, backbone, self.memory)

    def suits(self, plan: Plan, set_name: str, backbone: str) -> bool:
        """Tell whether the product takes the option for a set: a foreground must stand apart."""
        if self.only and backbone not in self.only:
            return False
        if not self.memory.foreground:
            return True
        try:
            check_foreground(find_foreground(subject(plan, set_name, backbone).good))
        except InvalidInput:
            return False
        return True

    def build(self, photographs: Sequence[Embedded], rate: float) -> Made:
        """Make a bank of some good photographs."""
        axis = find_foreground(photographs).axis if self.memory.foreground else None
        return Made(build_memory([keep_foreground(p, axis) for p in photographs], rate)[0], axis)


PLAIN = "plain"
OPTIONS: Mapping[str, Option] = {
    PLAIN: Option(MemoryOptions()),
    "flips": Option(MemoryOptions(augmentation="flips")),
    "foreground": Option(MemoryOptions(foreground=True)),
    # Windows multiply the feature calls: measured with the faster backbone.
    "tiled": Option(MemoryOptions(tiling=Tiling(_WINDOW_PX, _OVERLAP_PX)), only=(RESNET,)),
}
