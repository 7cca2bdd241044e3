"""What one operation costs: where it runs, how often its operands cross each memory, the roofline terms."""
