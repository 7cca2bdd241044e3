"""Questions about a problem and its plan, answered by solving: frontier, capacities, reasons, rivals."""
