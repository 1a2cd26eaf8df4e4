"""From recordings to a verified, quantized model folder that the agent can load."""

import os

# Matrices are small here: more threads would only spin, ten times as long, and round otherwise with each number of
# cores. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
