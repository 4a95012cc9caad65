"""Cost functions, one formulation per file, and the terms that they are made of."""
