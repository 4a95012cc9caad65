"""Settings of a catchment whose defaults are the Fulda at Grebenau."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from diffassim.experiments.framework.base import quantity
from diffassim.experiments.rivers.catchment_settings import CatchmentConfiguration, area_of
from diffassim.io.catchment import fulda_file

__all__ = ["FuldaConfiguration"]


class FuldaConfiguration(CatchmentConfiguration):
    """Settings: those of any catchment; the defaults are the Fulda at Grebenau.

    Args:
        file: table of another catchment, with the columns `date` (31.12.1979), `Prec` (mm), `tmean` (degrees Celsius)
            and `Q` (m3/s) unless settings say otherwise; default: the Fulda.
        area: catchment area in km2.
        latitude: of the catchment, degrees north, for the potential evaporation.
        date_format: how dates are written.
        precipitation: column.
        temperature: column.
        discharge: column.
        calibration_start: first day on which parameters and error statistics are fitted; the days before warm up.
        calibration_end: last one.
        verification_start: first day on which forecasts are scored.
        verification_end: last one.
    """

    area: Annotated[float, BeforeValidator(area_of), Field(gt=0, lt=5.1e8)] = 2976.41
    latitude: Annotated[float, quantity("degrees_north"), Field(ge=-66, le=66)] = 50.6
    date_format: str = "%d.%m.%Y"
    precipitation: str = "Prec"
    temperature: str = "tmean"
    discharge: str = "Q"
    calibration_start: datetime.date | None = datetime.date(1980, 1, 1)
    calibration_end: datetime.date | None = datetime.date(1983, 12, 31)
    verification_start: datetime.date | None = datetime.date(1984, 1, 1)
    verification_end: datetime.date | None = datetime.date(1988, 12, 31)

    def source(self) -> Path:
        """Return the file of the record."""
        return fulda_file() if self.file is None else self.file
