"""What scripts/torture runs: one module for each torture."""
