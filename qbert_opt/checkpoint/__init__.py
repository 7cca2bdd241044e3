"""The quantized model as a folder: bit-packed safetensors of exactly the planned size."""
