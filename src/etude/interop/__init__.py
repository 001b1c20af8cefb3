"""Import and export of weights in Hugging Face formats, with one module per model family."""
