"""Hear it work in a minute: a street made of numbers, a real broker, the whole agent."""
