"""Data layouts that are more than one table, one file each.

What a reader defines is the Protocol `data.reader.Reader`; `texts.read_texts` asks each before it takes the path for a
table or a folder of splits.
"""
