"""Real data; applications do not import each other."""
