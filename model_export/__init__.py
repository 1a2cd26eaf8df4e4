"""From recordings to a verified, quantized model folder that the agent can load."""
