"""Trainings of others in sweeps (docs/own_training.md): what a trainer gets, and the process in which it runs."""

from raybc.trainer.job import TrainerJob, TrainingStopped

__all__ = ["TrainerJob", "TrainingStopped"]
