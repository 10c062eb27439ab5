"""Simulators in virtual environments of their own, whose packages contradict those of training."""

from raybc.env.environment import Environment as Environment
