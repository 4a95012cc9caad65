"""What knows nothing of assimilation: pytrees, tree algebra, loops, Krylov methods, result codes."""
