"""Proof by breaking things: the agent as it is, in processes that are killed, frozen, cut off and lied to."""
