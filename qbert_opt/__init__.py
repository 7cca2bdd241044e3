"""Plan, prove, predict and produce mixed-precision BERT-style models for small devices."""
