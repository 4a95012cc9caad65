"""Networks of stations: analyses at any place and forecasts at all stations, from a table of observations alone."""
