"""Learning online: own experience on disk, and training on it while simulators collect more."""
