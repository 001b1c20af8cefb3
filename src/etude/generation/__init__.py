"""Text generation: sampling, beam search and streaming."""
