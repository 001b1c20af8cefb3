"""Data whose examples have fields: texts with labels, tags, scores or target texts."""
