"""Data layouts that are more than one table, one file each.

A reader implements the Protocol `data.reader.Reader`. `texts.read_texts` tries the readers before it treats a path as a
table or a folder of splits.
"""
