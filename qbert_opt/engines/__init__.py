"""Engines that run a quantized model; one file each.

An engine defines

- `INSTALL`: the line that installs it, and `usable() -> bool`, `label() -> str` (name and version);
- `write(traced, stored, folder)`: the model as the engine's own files; torch has none, it reads the quantized folder;
- `open_model(folder, threads, exact) -> Session`: a written model, ready to run; `exact` in float32 throughout;
- `product(matrix, threads) -> Session`: one matrix product alone, `{"x": [M, columns]}` to `{"y": [M, rows]}`.

`write` needs torch; the others must not import it: what runs on a device is the engine alone.
"""
