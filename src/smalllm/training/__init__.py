"""Training: one update, the loop around it, the stop signals and the clock."""
