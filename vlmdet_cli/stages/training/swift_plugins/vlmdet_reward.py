"""Registers the reward functions, and the callback that corrects how answers are sampled."""

from vlmdet_cli.stages.training.reward_functions import register

register()
