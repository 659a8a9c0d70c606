"""From trees of arrays to a step: checked, sorted into buckets, run, and taken note of."""
