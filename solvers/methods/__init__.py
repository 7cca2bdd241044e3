"""One solver per file, found by its name.

A file gives `usable() -> bool`, `label() -> str` (name and version) and
`run(program: Program, limits: Limits) -> Outcome` for a presolved program; its docstring's first line is its
description.
"""
