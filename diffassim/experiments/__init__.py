"""Experiments: named, configured, resumable."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened

__all__ = ["EXPERIMENTS", "find_experiment"]

# Where each experiment lives; imported only when it is asked for.
EXPERIMENTS = {
    "fulda": "diffassim.experiments.applications.fulda:Fulda",
    "catchment": "diffassim.experiments.applications.catchment:Catchment",
    "lorenz96": "diffassim.experiments.twins.lorenz96:Lorenz96Twin",
    "lorenz96-ensemble": "diffassim.experiments.twins.lorenz96_ensemble:Lorenz96Ensemble",
    "large-state": "diffassim.experiments.twins.large_state:LargeState",
    "twin": "diffassim.experiments.twins.twin:Twin",
    "stations": "diffassim.experiments.stations.stations:Stations",
    "nyc-weather": "diffassim.experiments.applications.nyc_weather:NycWeather",
    "ridgecrest": "diffassim.experiments.applications.ridgecrest:Ridgecrest",
    "seismic": "diffassim.experiments.applications.seismic:Seismic",
    "utah": "diffassim.experiments.applications.utah:Utah",
    "sea-surface": "diffassim.experiments.applications.sea_surface:SeaSurface",
    "air-quality": "diffassim.experiments.applications.air_quality:AirQuality",
    "globe": "diffassim.experiments.applications.globe:Globe",
    "water-reservoir": "diffassim.experiments.control.water_reservoir:WaterReservoirFronts",
    "flood-warning": "diffassim.experiments.control.flood_warning:FloodWarnings",
    "sensor-placement": "diffassim.experiments.control.sensor_placement:SensorPlacement",
    "river-loop": "diffassim.experiments.loop.river:RiverLoop",
    "twin-loop": "diffassim.experiments.loop.twin:TwinLoop",
    "adaptive-inflation": "diffassim.experiments.control.adaptive_inflation:AdaptiveInflationComparison",
    "reservoir": "diffassim.experiments.control.reservoir:Reservoir",
    "correction": "diffassim.experiments.learning.correction:Correction",
}


def find_experiment(name: str) -> Any:
    """Return the experiment of that name.

    Raises:
        ConfigurationError: if there is none.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name[:100], EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(EXPERIMENTS)}"
        raise ConfigurationError(f"unknown experiment {shortened(repr(name))}; {hint}")
    module, _, attribute = EXPERIMENTS[name].partition(":")
    return getattr(import_module(module), attribute)()
