"""Settings of the comparison of flood warnings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from diffassim.decisions.problems import WarningCosts
from diffassim.experiments.control.flood_warning_agents import AGENTS
from diffassim.experiments.framework.base import quantity
from diffassim.experiments.rivers.catchment_settings import CatchmentConfiguration
from diffassim.experiments.rivers.fulda_settings import FuldaConfiguration

__all__ = ["FloodWarningConfiguration"]

SEEDS_AT_ONCE = 5


class FloodWarningConfiguration(FuldaConfiguration):
    """Settings: those of a catchment, and what warnings cost.

    Without `file` the record is that of the Fulda; with one, its settings are those of `catchment`.

    Args:
        parts: of the comparison: the twin, the record, or both.
        misses: costs of a flood without warning; a comparison for each.
        false_alarm: cost of a warning without a flood.
        cancellation: cost of withdrawing a warning.
        flood_quantile: share of the calibration days (and of the twin's) without a flood; on the record
            `flood_thresholds` may name one discharge instead.
        seeds: independent trainings of every agent in the twin.
        agents: of the twin; default: all.
        effort: factor of the updates that every agent gets.
        block: days in a block of the bootstrap.
        leads: at which a warning may be given, kept or withdrawn.
    """

    parts: Annotated[tuple[Literal["twin", "record"], ...], Field(min_length=1)] = ("twin", "record")
    misses: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (5.0, 10.0, 20.0)
    false_alarm: Annotated[float, Field(ge=0)] = 1.0
    cancellation: Annotated[float, Field(ge=0)] = 1.0
    flood_quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seeds: Annotated[int, Field(ge=1)] = 20
    agents: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(AGENTS)
    effort: Annotated[float, Field(gt=0)] = 1.0
    block: Annotated[int, quantity("days"), Field(ge=1)] = 30
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=30)], ...], Field(min_length=1)] = (1, 2, 3)

    @model_validator(mode="before")
    @classmethod
    def _of_another_catchment(cls, settings: Any) -> Any:
        """Let the defaults of the Fulda go where a file is named."""
        if not isinstance(settings, dict) or settings.get("file") is None:
            return settings
        plain, found = CatchmentConfiguration.model_fields, dict(settings)
        for name, field in FuldaConfiguration.model_fields.items():
            if name not in found and plain[name].is_required():
                raise ValueError(f"{name}: must be set for a file of your own")
            if name not in found and plain[name].default != field.default:
                found[name] = plain[name].default
        return found

    @field_validator("agents")
    @classmethod
    def _known(cls, agents: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in agents if name not in AGENTS]
        if unknown or len(set(agents)) < len(agents):
            found = repr(unknown[0]) if unknown else "one twice"
            raise ValueError(f"found {found}; there are {', '.join(AGENTS)}")
        return agents

    @model_validator(mode="after")
    def _costs(self) -> Self:
        if len(set(self.misses)) < len(self.misses) or len(set(self.parts)) < len(self.parts):
            raise ValueError("misses, parts: one stands there twice")
        if self.false_alarm == 0 and min(self.misses) == 0:
            raise ValueError("misses, false_alarm: both are zero; there is nothing to decide")
        if len(self.flood_thresholds) > 1:
            raise ValueError(f"flood_thresholds: {self.flood_thresholds}; warnings are of one")
        return self

    def costs(self, miss: float) -> WarningCosts:
        """Return what warnings cost where a miss costs so much."""
        return WarningCosts(miss, self.false_alarm, self.cancellation)

    def runs(self) -> list[tuple[str, int, int]]:
        """Return agent, first seed and number of seeds of every training in the twin."""
        if "twin" not in self.parts:
            return []
        starts = range(0, self.seeds, SEEDS_AT_ONCE)
        return [(name, k, min(SEEDS_AT_ONCE, self.seeds - k)) for name in self.agents for k in starts]
