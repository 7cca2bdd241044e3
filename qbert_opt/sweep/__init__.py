"""Many models, devices and budgets as one graph of tasks on Dask; each task's result is cached under its key."""
