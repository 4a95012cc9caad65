"""What a twin experiment needs to be told: model, truth, start, observations, methods, and what is swept."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.assimilation import needs_window
from diffassim.experiments.framework.base import Configuration
from diffassim.experiments.framework.parts import find_part
from diffassim.experiments.framework.twin import LAWS
from diffassim.experiments.twins.sweep import planned_runs
from diffassim.io.messages import shortened, suggested

__all__ = ["MethodSettings", "ModelSettings", "ObserveSettings", "StartSettings", "TruthSettings", "TwinConfiguration"]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """Base of the tables: unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class ModelSettings(Table):
    """The model that assimilates, and unless `[truth]` says otherwise makes the truth.

    Args:
        name: a model of the package, such as "Lorenz96".
        size: of a state, one number for each axis or one for a square; empty: the model's usual one.
        **numbers: arguments of the model, such as forcing = 8.0.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)

    name: str = "Lorenz96"
    size: tuple[Count, ...] = ()

    @field_validator("size", mode="before")
    @classmethod
    def _axes(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else tuple(value)

    @property
    def numbers(self) -> dict[str, Any]:
        """Arguments of the model."""
        return dict(self.__pydantic_extra__ or {})


class TruthSettings(Table):
    """What makes the truth another one than the model would, and how it begins.

    Args:
        spin_up: model steps before it begins; default: the model's usual ones.
        samples: states of its climatology.
        apart: model steps between them; default: the model's usual ones.
        model_error: standard deviation of a normal error of every component after every step.
        model_error_share: the same as a share of the climatological standard deviation.
        **numbers: arguments of the model that are others for the truth.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)

    spin_up: Annotated[int, Field(ge=0)] | None = None
    samples: Annotated[int, Field(ge=3)] = 400
    apart: Count | None = None
    model_error: Annotated[float, Field(ge=0)] = 0.0
    model_error_share: Annotated[float, Field(ge=0)] = 0.0

    @property
    def numbers(self) -> dict[str, Any]:
        """Arguments of the model that are others for the truth."""
        return dict(self.__pydantic_extra__ or {})


class StartSettings(Table):
    """The distribution that truth and members are drawn from: normal, around a state of the climatology.

    Args:
        share: standard deviation as a share of the climatological one, with its correlations; 1 knows nothing.
        std: of every component instead, uncorrelated.
    """

    share: Positive | None = None
    std: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.share is not None and self.std is not None:
            raise ValueError("start: give share or std, not both")
        return self


class ObserveSettings(Table):
    """What is observed, when and how well.

    Args:
        fields: components of the state, where it has several; empty: all.
        every: every n-th point of each axis of the grid.
        offset: first observed point of each axis.
        indices: observed points instead; numbers, or pairs of them (y, x) on a plane; from 0 on.
        random: number of points drawn at random instead.
        anew: whether these are drawn anew at each time.
        function: a function of one number applied to what is observed, by its name in NumPy: "square", "abs", "exp".
        interval: model steps from one observation time to the next.
        std: standard deviation of the errors; one for each field as {u = 1.0, height = 20.0}.
        share: the same as a share of the climatological standard deviation of what is observed.
        law: of the errors; their variance is the same.
        assumed: factor between the standard deviation that the methods are told and the true one.
    """

    fields: tuple[str, ...] = ()
    every: Count = 1
    offset: Annotated[int, Field(ge=0)] = 0
    indices: tuple[Any, ...] = ()
    random: Annotated[int, Field(ge=0)] = 0
    anew: bool = False
    function: str = "identity"
    interval: Count = 1
    std: Positive | dict[str, Positive] | None = None
    share: Positive | None = None
    law: str = "normal"
    assumed: Positive = 1.0

    @field_validator("law")
    @classmethod
    def _is_law(cls, value: str) -> str:
        if value not in LAWS:
            raise ValueError(f"there is no law {shortened(repr(value))}; known: {', '.join(LAWS)}")
        return value

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if self.std is not None and self.share is not None:
            raise ValueError("observe: give std or share, not both")
        given = {"every": self.every > 1, "indices": self.indices, "random": self.random}
        chosen = [name for name, value in given.items() if value]
        if len(chosen) > 1:
            raise ValueError(f"observe: give {chosen[0]} or {chosen[1]}, not both")
        if self.anew and not self.random:
            raise ValueError("observe: anew = true draws points anew at each time; say how many: random = 20")
        return self


class MethodSettings(Table):
    """A method and what it is run with.

    Args:
        method: its class with its arguments, such as {LETKF = {inflation = 1.04, localization = {GaspariCohn = 4.0}}},
            or the name alone.
        label: for tables and figures; empty: the class's name. No two methods have the same.
        members: of an ensemble, or particles.
        lag: observation times in a window, for methods that analyse windows.
        shift: observation times from window to window.
    """

    method: str | dict[str, Any] = "ETKF"
    label: str = ""
    members: Annotated[int, Field(ge=2)] = 20
    lag: Annotated[int, Field(ge=0)] | None = None
    shift: Count = 1

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        if isinstance(self.method, dict) and len(self.method) != 1:
            raise ValueError("method must name one class with its arguments, such as {ETKF = {inflation = 1.02}}")
        return self

    @property
    def kind(self) -> str:
        """The class's name."""
        return self.method if isinstance(self.method, str) else next(iter(self.method))

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.label or self.kind

    @property
    def window(self) -> int:
        """Observation times in a window, 0 for a method that analyses one time after the other."""
        return int(needs_window(find_part("methods", self.kind))) if self.lag is None else self.lag

    def check_window(self, cycles: int) -> None:
        """Raise `ConfigurationError` if the method has no windows of this kind."""
        name = f"methods: {self.name}"
        windowed = needs_window(find_part(name, self.kind))
        if self.lag and not windowed:
            raise ConfigurationError(
                f"{name}: {self.kind} analyses one time after the other: it takes no lag (EnKS takes one as its "
                "argument)"
            )
        if windowed and not 1 <= self.window <= cycles:
            raise ConfigurationError(f"{name}: lag = {self.window} must lie between 1 and the {cycles} cycles")
        if self.shift > max(self.window, 1):
            raise ConfigurationError(f"{name}: shift = {self.shift} must not be more than lag = {self.window}")


class TwinConfiguration(Configuration):
    """Settings of a twin experiment, and of what is swept.

    Args:
        seeds: repeats of every run, each with its own truth, errors and members; the same ones for all runs.
        cycles: observation times.
        discarded_cycles: first ones that do not count in the scores.
        best_over: swept paths of which the table and the figure keep the value with the smallest error of the
            analysis; all runs are in runs.csv.
        model: see `ModelSettings`.
        truth: see `TruthSettings`.
        start: see `StartSettings`.
        observe: see `ObserveSettings`.
        methods: see `MethodSettings`.
        sweep: by path the values it takes, one run for each combination; several paths that change together are one
            key, separated by commas, with a list of lists.
    """

    seeds: Annotated[int, Field(ge=1, le=10_000)] = 3
    cycles: Annotated[int, Field(ge=1, le=10**8)] = 500
    discarded_cycles: Annotated[int, Field(ge=0)] = 100
    best_over: tuple[str, ...] = ()
    model: ModelSettings = ModelSettings()
    truth: TruthSettings = TruthSettings()
    start: StartSettings = StartSettings()
    observe: ObserveSettings = ObserveSettings()
    methods: Annotated[tuple[MethodSettings, ...], Field(min_length=1)] = (
        MethodSettings(method={"LETKF": {"inflation": 1.04, "localization": {"GaspariCohn": {"radius": 4.0}}}}),
    )
    sweep: dict[str, list[Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if self.discarded_cycles >= self.cycles:
            raise ValueError(
                f"discarded_cycles: {self.discarded_cycles} leaves nothing of {self.cycles} cycles to score"
            )
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"methods: {names.count(name)} of them are called {name!r}; give each its own label")
        if not self.sweep:
            for method in self.methods:
                method.check_window(self.cycles)
        for path in self.best_over:
            if path not in self.sweep:
                raise ValueError(f"best_over: {path!r} is not swept{suggested(path, self.sweep)}")
        planned_runs(self)  # for its checks
        return self
