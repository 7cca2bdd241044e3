"""Second-order information: Gauss-Newton factors, Hessian-vector products, input statistics."""
