"""Instruction rows: detection rows, questions by kind with their truth rules, and the tokens that rows take."""
