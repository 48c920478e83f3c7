"""Tests of reading, converting and checking data."""
