"""Policies: mathematics only (no optimiser, logging, environment or Ray)."""
