"""What a run will cost, and what fits a budget of time."""
