"""Experiment trackers: copies of a run folder's metrics and videos."""
