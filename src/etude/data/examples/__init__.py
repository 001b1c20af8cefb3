"""Examples of different lengths with something to learn from each: labels, tags, targets."""
