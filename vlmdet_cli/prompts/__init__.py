"""Instruction rows: detection, the kinds of questions with their truth rules, and the tokens they take."""
