"""The command line: one file per verb in `verbs/`, each a thin layer over the package's functions."""
