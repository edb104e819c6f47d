"""The generalised assignment problem: what the exact solver `lagrangian` and the local search are made of."""
