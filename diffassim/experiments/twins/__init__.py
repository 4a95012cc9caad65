"""Twin experiments: a truth made by the model itself."""
