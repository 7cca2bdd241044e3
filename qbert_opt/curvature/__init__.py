"""Second-order information: Gauss-Newton factors, Hessian-vector products and input statistics."""
