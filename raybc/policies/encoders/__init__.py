"""Encoders of images for packs of members."""
