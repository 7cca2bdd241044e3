"""Engines that run a quantized model; one file each.

An engine defines

- `INSTALL`: the line that installs it, and `usable() -> bool`, `label() -> str` (name and version);
- `write(traced, stored, folder, activations, inputs)`: the model as the engine's own files, the inputs of
  named matrices rounded as planned; torch reads the quantized folder;
- `open_model(folder, threads, activations) -> Session`: a written model, ready to run;
- `product(matrix, threads, activations) -> Session`: one product, `{"x": [M, columns]}` to `{"y": [M, rows]}`.

`write` needs torch; the others must not import it: what runs on a device is the engine alone.
"""
