"""Policies from and for LeRobot, by its files alone: LeRobot itself is not imported."""
