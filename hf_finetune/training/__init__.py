"""Trainers, callbacks and checks of a training run."""
