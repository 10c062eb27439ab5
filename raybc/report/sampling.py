"""How chunks are computed, for tables: solver, flow_steps, and the evaluations of the network that they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raybc.types import SampleSetting


@dataclass(frozen=True, order=True)
class Sampling:
    """The part of a sample setting that decides how often the network is evaluated; the cheapest is the smallest."""

    evaluations: int
    """Evaluations of the network per chunk."""
    flow_steps: int
    """0 for a policy without steps."""
    solver: str

    @classmethod
    def of(cls, setting: SampleSetting, evaluations: int) -> Sampling:
        return cls(evaluations, setting.flow_steps, setting.solver)

    @property
    def label(self) -> str:
        """`flow_steps=4`, `flow_steps=2 solver=heun`, or `2 evaluations` for a policy without steps."""
        if not self.flow_steps:
            return f"{self.evaluations} evaluation{'s' * (self.evaluations != 1)}"
        return SampleSetting(self.flow_steps, solver=self.solver).label()

    def cells(self, plain: bool) -> list[str]:
        """Its cells under `head(plain)`."""
        steps = str(self.flow_steps) if self.flow_steps else "-"
        return [steps] if plain else [str(self.evaluations), self.solver if self.flow_steps else "-", steps]


def is_plain(samplings: Iterable[Sampling]) -> bool:
    """Whether flow_steps alone says everything: one evaluation a step."""
    return all(one.evaluations == one.flow_steps and one.solver == "euler" for one in samplings)


def head(plain: bool) -> list[str]:
    """The headings of `Sampling.cells`."""
    return ["flow_steps"] if plain else ["evaluations", "solver", "flow_steps"]
