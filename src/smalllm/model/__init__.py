"""The transformer: its forward pass, initial weights, counts and cache."""
