"""Evaluation of models: quality by labels, and loss relative to a reference. Everything here is *measured*."""
