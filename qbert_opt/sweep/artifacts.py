"""What the steps call the files and folders that they write, as the single verbs do by default."""

SCORES = "scores.json"
PLAN = "allocation.json"
QUANTIZED = "quantized"
EXPORTED = "exported"
MEASURED = "measured.json"
