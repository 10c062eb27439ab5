"""Rollouts: run a policy in simulators and count what happens."""
