"""Registers the weights of tokens in the loss."""

from vlmdet_cli.training.loss import register

register()
