"""A benchmark of exact, heuristic and learned schedulers of deep-learning work."""
