"""File formats: they write the codes of a quantized model as another tool's model file."""
