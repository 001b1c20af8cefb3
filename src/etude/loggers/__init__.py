"""Views of a run for other programs: TensorBoard, Weights & Biases, or a class of the user's.

The record's plain files are the truth. A logger repeats what was written there, and neither its
slowness nor its failure reaches the run (see `views`).
"""
