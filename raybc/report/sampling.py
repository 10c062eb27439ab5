"""How chunks are computed, for tables: solver, flow_steps, best_of_n, and their evaluations of the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from raybc.types import SampleSetting


@dataclass(frozen=True, order=True)
class Sampling:
    """The part of a sample setting that decides how often the network is evaluated; the cheapest is the smallest."""

    evaluations: int
    """Evaluations of the network per chunk."""
    flow_steps: int
    """0 for a policy without steps."""
    solver: str
    best_of_n: int = 1

    @classmethod
    def of(cls, setting: SampleSetting, evaluations: int) -> Sampling:
        return cls(evaluations, setting.flow_steps, setting.solver, setting.best_of_n)

    @property
    def label(self) -> str:
        """`flow_steps=4`, `flow_steps=2 solver=heun`, or `2 evaluations` for a policy without steps."""
        if not self.flow_steps:
            return f"{self.evaluations} evaluation{'s' * (self.evaluations != 1)}"
        return SampleSetting(self.flow_steps, solver=self.solver, best_of_n=self.best_of_n).label()

    def at(self, setting: SampleSetting) -> SampleSetting:
        """`setting` with these values."""
        return replace(setting, flow_steps=self.flow_steps, solver=self.solver, best_of_n=self.best_of_n)

    def cells(self, names: Sequence[str]) -> list[str]:
        """Its cells under `names` (`head`)."""
        without = {} if self.flow_steps else {"solver": "-", "flow_steps": "-"}
        return [without.get(name, str(getattr(self, name))) for name in names]


def is_plain(samplings: Iterable[Sampling]) -> bool:
    """Whether flow_steps alone says everything: one evaluation a step."""
    return all(one.evaluations == one.flow_steps and one.solver == "euler" for one in samplings)


def head(samplings: Iterable[Sampling]) -> list[str]:
    """The headings of a table of these."""
    found = list(samplings)
    if is_plain(found):
        return ["flow_steps"]
    return ["evaluations", "solver", "flow_steps", *(["best_of_n"] if any(one.best_of_n > 1 for one in found) else [])]
