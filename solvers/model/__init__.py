"""The problem, its pricing, the reduced program, and the solution."""
