"""Velocity fields: networks v(x, t | obs) for packs of members."""
