"""What all experiments share: configuration, run directory, checkpoints."""
