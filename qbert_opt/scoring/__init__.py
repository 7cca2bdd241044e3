"""Scoring: from a model and calibration text to a table of predicted losses."""
