"""Many models, devices and budgets as one graph of tasks on Dask, each task's result kept under its key."""
