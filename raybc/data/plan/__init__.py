"""Sampling plans: which windows a training draws and how often, decided before it starts and kept in two files."""
