"""What runs on the board: these modules and `runtime/cpu_timing.py` are joined into the bundle's one script.

They may import only the standard library, numpy and onnxruntime, and each other with one-line relative imports.
"""
