"""What a class of one's own must have to stand in a config: a contract for each kind."""
