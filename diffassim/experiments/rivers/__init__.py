"""What all experiments with a gauged catchment share: settings, record, calibration, analyses, and simple forecasts."""
