"""How good an avatar is: figures, baselines, report."""
