"""Sampling plans: which windows training draws and how often, decided before it starts and saved in two files."""
