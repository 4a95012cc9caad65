"""A day of the twin experiment on the sphere as a dataset: fields, spreads, forecast errors, spectra, places."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffassim.diagnostics import spherical_power_spectrum
from diffassim.experiments.applications.globe_methods import ENSEMBLES, METHODS, Day
from diffassim.experiments.applications.globe_setting import (
    DAY,
    FIELDS,
    WINDOW,
    GlobeSetting,
    Network,
    area_weights,
    axes_of,
    satellite_track,
)
from diffassim.models import rollout

__all__ = ["LEADS", "day_dataset", "kind_errors"]

LEADS = (24, 48, 72)  # hours
UNITS = {"u": "m s-1", "v": "m s-1", "height": "m"}
KINDS = ("wind", "height")
GRID = ("latitude", "longitude")


def day_dataset(
    setting: GlobeSetting, network: Network, model: Any, days: dict[str, Day], rows: Any, observations: Any, index: int
) -> xr.Dataset:
    """Return what the methods have made of a day, beside the truth.

    Args:
        setting: of the experiment.
        network: who observes.
        model: the model, for forecasts from the end of the day.
        days: by method.
        rows: true states from the start of the day to the end of the longest forecast, hour by hour.
        observations: of the day.
        index: number of the day.

    Returns:
        Dataset whose `time` is the end of each window, in days.
    """
    truth = jax.tree.map(lambda leaf: np.asarray(leaf[WINDOW : DAY + 1 : WINDOW]), rows)
    later = jax.tree.map(lambda leaf: np.asarray(leaf[DAY + np.array(LEADS)]), rows)
    _, latitude, longitude = axes_of(setting)
    variables: dict[str, Any] = {}
    for name in FIELDS:
        unit = {"units": UNITS[name]}
        variables[f"true_{name}"] = (("time", *GRID), getattr(truth, name), unit)
        for part in ("background", "analysis"):
            fields = np.stack([np.asarray(getattr(getattr(days[m], part), name)) for m in METHODS], axis=1)
            variables[f"{part}_{name}"] = (("time", "method", *GRID), fields, unit)
        spread = np.stack([np.asarray(getattr(days[m].spread, name)) for m in ENSEMBLES], axis=1)
        variables[f"spread_{name}"] = (("time", "filter", *GRID), spread, unit)
    variables = {name: (dims, values.astype(np.float32), unit) for name, (dims, values, unit) in variables.items()}
    variables["failed"] = (("time", "method"), np.stack([days[method].failed for method in METHODS], axis=1))
    variables["forecast_error"] = (("time", "method", "lead", "kind"), _forecast_errors(model, days, later))
    variables["spectrum"] = (("time", "method", "kind", "degree"), _spectra(setting, days, truth))
    variables |= _network(setting, network, observations, index)
    windows = DAY // WINDOW
    coordinates = {
        "time": index + (np.arange(windows) + 1) / windows, "method": list(METHODS), "filter": list(ENSEMBLES),
        "latitude": latitude, "longitude": longitude, "lead": list(LEADS), "kind": list(KINDS),
        "degree": np.arange(variables["spectrum"][1].shape[-1]),
    }  # fmt: skip
    return xr.Dataset(variables, coordinates)


def kind_errors(difference: Any) -> np.ndarray:
    """Return the root-mean-square error of the wind vector and of the height over the sphere, on the last axis.

    Args:
        difference: fields u, v, height, with any axes in front of latitude and longitude.
    """
    u, v, height = (np.asarray(getattr(difference, name), float) for name in FIELDS)
    weights = area_weights(*u.shape[-2:])
    squares = np.stack([u**2 + v**2, height**2], axis=-1)
    return np.sqrt(np.sum(weights[..., None] * squares, axis=(-3, -2)))


def _forecast_errors(model: Any, days: dict[str, Day], later: Any) -> np.ndarray:
    """Return the errors of forecasts from the end of the day, shape (window, method, lead, kind); NaN elsewhere."""
    starts = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(leaf[-1]) for leaf in leaves]),
        *(days[method].analysis for method in METHODS[1:]),
    )
    forecasts = _forecasts(model, starts)
    still = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf[-1:])[None], len(LEADS), 1), days[METHODS[0]].analysis)
    found = jax.tree.map(lambda a, b: np.concatenate([a, np.asarray(b)]), still, forecasts)
    errors = np.full((DAY // WINDOW, len(METHODS), len(LEADS), len(KINDS)), np.nan)
    errors[-1] = kind_errors(jax.tree.map(lambda a, b: a - b[None], found, later))
    return errors


@jax.jit
def _forecasts(model: Any, starts: Any) -> Any:
    return jax.vmap(lambda x: rollout(model, x, LEADS[-1], at=jnp.asarray(LEADS)))(starts)


def _spectra(setting: GlobeSetting, days: dict[str, Day], truth: Any) -> np.ndarray:
    """Return the spectrum by degree of the errors, shape (window, method, kind, degree), of winds and height."""
    power = {}
    for name in FIELDS:
        error = np.stack([np.asarray(getattr(days[m].analysis, name)) for m in METHODS], axis=1)
        error = error - getattr(truth, name)[:, None]
        power[name] = np.asarray(spherical_power_spectrum(jnp.asarray(error), setting.truncation).power)
    return np.stack([power["u"] + power["v"], power["height"]], axis=2)


def _network(setting: GlobeSetting, network: Network, observations: Any, index: int) -> dict[str, Any]:
    """Return where and how much was observed in each window."""
    windows = DAY // WINDOW
    stations, satellite = (np.asarray(stream.mask) for stream in observations)
    reports = stations.any(axis=1).reshape(windows, -1, setting.stations).any(axis=1)
    seen = satellite[:, 0].reshape(windows, -1)
    track = satellite_track(setting, network, DAY * index + np.arange(1, DAY + 1)).reshape(windows, -1, 2)
    count = stations.reshape(windows, -1).sum(axis=1) + seen.sum(axis=1)
    places = np.broadcast_to(network.stations, (windows, *network.stations.shape))
    return {
        "station": (("time", "number", "coordinate"), places), "reports": (("time", "number"), reports.astype(int)),
        "track": (("time", "point", "coordinate"), track), "seen": (("time", "point"), seen.astype(int)),
        "observed": ("time", count),
    }  # fmt: skip
