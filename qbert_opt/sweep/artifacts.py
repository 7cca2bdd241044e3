"""Names of the files and folders that the steps write, the same as the defaults of the single verbs."""

SCORES = "scores.json"
PLAN = "allocation.json"
QUANTIZED = "quantized"
EXPORTED = "exported"
MEASURED = "measured.json"
