"""NVIDIA GPUs: `sample_planes`, whose gradient of the tables repeats bit for bit."""
