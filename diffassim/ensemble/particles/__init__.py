"""Methods whose members carry weights."""
