"""Training loops: fine-tuning."""
