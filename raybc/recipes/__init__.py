"""Recipes of the literature as data: a YAML file each, with its source and what differs from it."""
