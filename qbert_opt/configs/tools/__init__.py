"""Configs of other tools; one file per tool, named as for `export-config --to`.

A tool is a module with

- `TITLE`, `SUFFIXES` (file extensions), `ROUNDING` (how it rounds) and `NOTES` (what a user should know),
- `offers(matrix) -> Iterable[Offer]`: every format in which it can store a matrix,
- `write(plan, carried, suffix) -> str`: its config; raises UsageError for a model that the tool cannot name,
- `read(content, profile, suffix) -> dict[module, Offer]`: the reverse; raises ValueError for an unreadable config,
- where its file is a list: `OUTERMOST = list`,
- where it has the embedding tables too: `CARRIES_TABLES = True`.
"""
