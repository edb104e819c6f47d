"""The library of the exact solvers: models, relaxations with proofs, annealing, search log."""
