"""Adversaries by promise: each test plays the one that a printed promise names."""
