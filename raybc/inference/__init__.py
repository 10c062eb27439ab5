"""Inference with a trained policy, in rollouts, in programs and on a server."""
