"""Run quantized and exported models: predict, measure and time."""
