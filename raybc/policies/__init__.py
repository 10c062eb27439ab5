"""Policies: networks and losses only (no optimiser, logging, environment or Ray)."""
