"""Learning from logged decisions alone: the learners, what feeds them, and off-policy evaluation."""
