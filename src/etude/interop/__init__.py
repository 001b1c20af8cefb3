"""Import and export of released weights in the formats of Hugging Face, one module per family."""
