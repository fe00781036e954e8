"""Registers the callback that measures F1 at each checkpoint."""

from vlmdet_cli.stages.training.train_evaluation import register

register()
