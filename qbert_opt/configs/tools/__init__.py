"""Plans in other tools' own words: one file per tool, the file's name is the tool's name for `export-config --to`.

A tool is a module with

- `TITLE`, `SUFFIXES` (endings of its config), `ROUNDING` (what it rounds with) and `NOTES` (what a user should know),
- `offers(matrix) -> Iterable[Offer]`: every way in which it can store that matrix,
- `write(plan, carried, suffix) -> str`: its config; raises UsageError for a model that it cannot name,
- `read(text, profile, suffix) -> dict[module, Offer]`: the reverse; raises ValueError for what it cannot read.
"""
