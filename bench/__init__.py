"""Benchmark suite: what is learning worth for scheduling deep-learning work?"""
