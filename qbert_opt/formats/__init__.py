"""A quantized model's codes as another tool's model file."""
