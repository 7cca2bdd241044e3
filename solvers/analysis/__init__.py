"""Analyses of a problem and its plan: frontier, capacities, explanations, baselines, shortlist, local search."""
