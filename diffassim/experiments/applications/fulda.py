"""The main job: assimilate the discharge of the river Fulda and forecast it."""

from __future__ import annotations

from typing import ClassVar

from diffassim.experiments.applications.catchment import METHODS, Catchment
from diffassim.experiments.rivers.catchment_settings import CatchmentConfiguration
from diffassim.experiments.rivers.fulda_settings import FuldaConfiguration

__all__ = ["METHODS", "Fulda", "FuldaConfiguration"]


class Fulda(Catchment):
    """Ten years of the Fulda at Grebenau: four years calibrate, five verify; the first warms the model up."""

    name = "fulda"
    summary = "4D-Var of ten years of discharge of the river Fulda: analyses, forecasts and scores."
    configuration: ClassVar[type[CatchmentConfiguration]] = FuldaConfiguration
