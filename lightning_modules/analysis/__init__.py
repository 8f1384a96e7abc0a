"""What networks cost and what they have learned: pure functions, no Lightning."""
