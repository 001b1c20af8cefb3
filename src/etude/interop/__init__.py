"""Released weights in and out: the names and configs of Hugging Face, one file a family."""
