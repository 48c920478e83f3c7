"""ARCTIC's leaderboard: submission files and their checks.

Computing predictions belongs in `evaluation` and `prediction`.
"""
