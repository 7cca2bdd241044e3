"""The steps of a sweep, each the work of one verb: a file with the verb's result in a folder. See `sweep.work.Step`."""
