"""Minimizers, their inner problems, and derivatives through their solutions."""
