"""Compiled code of the networks, for the CPU and for a GPU."""
