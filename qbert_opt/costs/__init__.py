"""What a choice costs: operations, the program's prices, the simulator's report."""
