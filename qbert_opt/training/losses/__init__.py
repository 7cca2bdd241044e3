"""Losses of end-to-end training, one file each, see `passes.TrainingLoss`.

Errors of hidden states and attention scores are relative to the teacher's squares, so that all have the same scale.
"""
