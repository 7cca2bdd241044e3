"""A plan and a model to a quantized model that is written, exported, run and measured."""
