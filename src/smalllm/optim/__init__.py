"""From gradients to updates: which parameters go where, at what rate."""
