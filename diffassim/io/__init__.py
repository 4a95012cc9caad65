"""Files and tables. Nothing below the experiments imports this package."""
