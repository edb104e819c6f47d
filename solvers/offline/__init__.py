"""Offline reinforcement learning: learners, their replay buffer, and off-policy evaluation."""
