"""What comes from outside, as broken as it can be: no input may crash the agent or raise what it does not name."""
