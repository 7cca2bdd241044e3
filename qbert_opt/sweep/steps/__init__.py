"""The steps of a sweep, one file each; a step does the work of one verb and writes its result into a folder.

See `sweep.work.Step`.
"""
