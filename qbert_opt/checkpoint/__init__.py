"""The quantized model as a folder: bit-packed safetensors, exactly as large as the plan says."""
