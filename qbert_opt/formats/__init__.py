"""File formats: the codes of a quantized model as a model file of another tool."""
