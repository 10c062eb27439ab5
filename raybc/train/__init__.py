"""Training: `step` and `loop` know nothing of Ray."""
