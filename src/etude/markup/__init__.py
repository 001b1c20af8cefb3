"""HTML fragments for displays in notebooks; every text in them is escaped."""
