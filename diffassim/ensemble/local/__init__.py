"""Ensemble methods with localization: domain filters, serial filters, tapers and places."""
