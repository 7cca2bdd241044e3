"""A weight matrix to codes and ranges; inputs of matrices to integers."""
