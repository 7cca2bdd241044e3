"""What is solved and what is answered: problem, prices, the reduced program, the solution."""
