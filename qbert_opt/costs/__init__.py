"""The cost of a plan on a device: its operations, the price of every option, and the simulator's report."""
