"""Data layouts that are more than one table, one file each.

A reader defines `reads(path) -> bool` and `read(path, *, split, label_column) -> (texts, labels)`; `texts.read_texts`
asks each before it takes the path for a table or a folder of splits.
"""
