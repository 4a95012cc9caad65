"""Arrival times of seismic waves as analysts picked them: QuakeML catalogs and StationXML inventories."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffassim.core.errors import DataError
from diffassim.io.packaged import packaged_file

__all__ = ["PickCatalog", "read_picks", "utah_files"]


class PickCatalog(NamedTuple):
    """P picks of some events, with what a catalog and an inventory say of events and stations.

    Args:
        events: names, in the order of their origin times.
        hypocenter: latitude, longitude (degrees) and depth (km below sea level) in the catalog, shape (events, 3).
        uncertainty: horizontal, in the catalog, km; NaN where it gives none.
        origin: times in the catalog.
        event: number of each pick's event, shape (picks,).
        station: number of its station.
        time: of the pick, in seconds after the event's first pick.
        emergent: whether its onset is not sharp.
        first: times of the first picks.
        stations: names, network and station.
        station_place: latitude, longitude and elevation (km) in the inventory, NaN where it does not have the station.
        arrival_event: number of the event of each arrival of the catalog, shape (arrivals,).
        arrival_station: number of its station.
        arrival_distance: from the catalog's epicenter to the station, degrees.
        arrival_azimuth: at the epicenter, degrees clockwise from north.
    """

    events: list[str]
    hypocenter: np.ndarray
    uncertainty: np.ndarray
    origin: np.ndarray
    event: np.ndarray
    station: np.ndarray
    time: np.ndarray
    emergent: np.ndarray
    first: np.ndarray
    stations: list[str]
    station_place: np.ndarray
    arrival_event: np.ndarray
    arrival_station: np.ndarray
    arrival_distance: np.ndarray
    arrival_azimuth: np.ndarray


def utah_files() -> tuple[Path, Path]:
    """Return catalog and inventory of events at the Bingham Canyon mine, Utah, that the package obsplus carries.

    The package is not imported, and its dependencies are not needed.

    Raises:
        DataError: if obsplus is not installed or does not carry the files.
    """
    command = "pip install --no-deps obsplus"
    catalog, inventory = (
        packaged_file("obsplus", f"bingham_test/{name}.xml", command) for name in ("events", "inventory")
    )
    return catalog, inventory


def read_picks(catalog: str | Path, inventory: str | Path) -> PickCatalog:
    """Read the P picks of a catalog, one for each event and station: the earliest.

    Args:
        catalog: QuakeML file with picks and origins.
        inventory: StationXML file.

    Raises:
        DataError: if a file is missing or damaged, or no event has a hypocenter and picks.
    """
    places = {
        f"{network.get('code')}.{station.get('code')}": _place(Path(inventory), station)
        for network in _children(_root(Path(inventory)), "Network")
        for station in _children(network, "Station")
    }
    events = [found for node in _root(Path(catalog)).iter() if _tag(node) == "event" if (found := _event(node))]
    if not events:
        raise DataError(f"{Path(catalog).name}: no event has a hypocenter and P picks")
    events.sort(key=lambda e: e["origin"])
    names = sorted({name for e in events for name in (*e["picks"], *(a[0] for a in e["arrivals"]))})
    number = {name: k for k, name in enumerate(names)}
    picks = [(k, number[name], *pick) for k, e in enumerate(events) for name, pick in sorted(e["picks"].items())]
    arrivals = [(k, number[a[0]], a[1], a[2]) for k, e in enumerate(events) for a in e["arrivals"]]
    first = np.array([min(pick[0] for pick in e["picks"].values()) for e in events])
    event = np.array([p[0] for p in picks])
    since = np.array([p[2] for p in picks]) - first[event]
    return PickCatalog(
        [e["name"] for e in events], np.array([e["hypocenter"] for e in events]),
        np.array([e["uncertainty"] for e in events]), np.array([e["origin"] for e in events]), event,
        np.array([p[1] for p in picks]),
        since / np.timedelta64(1, "ns") * 1e-9, np.array([p[3] for p in picks]), first, names,
        np.array([places.get(name, (np.nan,) * 3) for name in names]),
        *(np.array([a[i] for a in arrivals], kind) for i, kind in enumerate((int, int, float, float))),
    )  # fmt: skip


def _root(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except ET.ParseError as error:
        raise DataError(f"{path.name}: not a whole XML file ({error}); restore it from its source") from None


def _tag(node: ET.Element) -> str:
    return node.tag.rpartition("}")[2]


def _children(node: ET.Element, name: str) -> list[ET.Element]:
    return [child for child in node if _tag(child) == name]


def _text(node: ET.Element, *names: str) -> str | None:
    for name in names:
        found = _children(node, name)
        if not found:
            return None
        node = found[0]
    return node.text


def _place(path: Path, station: ET.Element) -> tuple[float, float, float]:
    texts = [_text(station, name) for name in ("Latitude", "Longitude", "Elevation")]
    try:
        latitude, longitude, elevation = (float(text or "") for text in texts)
    except ValueError:
        raise DataError(f"{path.name}: station {station.get('code')} has no place, but {texts}") from None
    return latitude, longitude, elevation / 1000


def _event(node: ET.Element) -> dict[str, Any] | None:
    """Return the event, or None without a hypocenter or picks."""
    origins = _children(node, "origin")
    wanted = (_text(node, "preferredOriginID") or "").strip()
    origin = next((o for o in origins if o.get("publicID") == wanted), origins[0] if origins else None)
    stations = {p.get("publicID"): _station(p) for p in _children(node, "pick")}
    picks: dict[str, tuple[np.datetime64, bool]] = {}
    for pick in _children(node, "pick"):
        when, name = _text(pick, "time", "value"), _station(pick)
        if (_text(pick, "phaseHint") or "").strip() != "P" or when is None or name is None:
            continue
        time = np.datetime64(when.strip().rstrip("Z"), "ns")
        if name not in picks or time < picks[name][0]:
            picks[name] = (time, (_text(pick, "onset") or "").strip() != "impulsive")
    if origin is None or not picks:
        return None
    texts = [_text(origin, name, "value") for name in ("latitude", "longitude", "depth", "time")]
    if any(text is None for text in texts):
        return None
    latitude, longitude, depth = (float(text or "") for text in texts[:3])
    uncertainty = _text(origin, "originUncertainty", "horizontalUncertainty")
    arrivals = []
    for arrival in _children(origin, "arrival"):
        name = stations.get((_text(arrival, "pickID") or "").strip())
        distance, azimuth = _text(arrival, "distance"), _text(arrival, "azimuth")
        if name is not None and distance is not None and azimuth is not None:
            arrivals.append((name, float(distance), float(azimuth)))
    return {
        "name": (node.get("publicID") or "").rpartition("/")[2], "hypocenter": (latitude, longitude, depth / 1000),
        "uncertainty": float(uncertainty or "nan") / 1000,
        "origin": np.datetime64((texts[3] or "").strip().rstrip("Z"), "ns"), "picks": picks, "arrivals": arrivals,
    }  # fmt: skip


def _station(pick: ET.Element) -> str | None:
    found = _children(pick, "waveformID")
    if not found or not found[0].get("stationCode"):
        return None
    return f"{found[0].get('networkCode')}.{found[0].get('stationCode')}"
