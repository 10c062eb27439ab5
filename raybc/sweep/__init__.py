"""Sweeps: search spaces, the ledger of trials, and the search on Ray Tune and Optuna."""
