"""Measures of what a model does inside: plain functions on one traced forward pass."""
