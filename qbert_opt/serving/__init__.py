"""Answers of a quantized or exported model."""
