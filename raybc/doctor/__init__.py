"""Checks that Ray does not make: a cluster's file, its machines, reserved resources, and who may connect."""
