"""Loggers: TensorBoard, Weights & Biases, or a custom class.

A logger receives a copy of the metrics, samples and figures that are saved in the run folder. A
slow or failing logger doesn't affect the run (see `run_loggers`).
"""
