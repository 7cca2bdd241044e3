"""Training: fine-tuning a float model, and recovery training of a quantized one."""
