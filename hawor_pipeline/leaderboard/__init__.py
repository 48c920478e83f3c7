"""ARCTIC's leaderboard: submission files and their checks.

The predictions come from `evaluation` and `prediction`.
"""
