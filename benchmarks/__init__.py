"""The agent beside YAMNet and OpenL3, on the same sound, in one run: `make benchmark`."""
