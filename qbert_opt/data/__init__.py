"""Texts and labels from files, and the bundled data sets and scores."""
