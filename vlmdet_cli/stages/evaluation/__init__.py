"""eval, compare, viz: from predictions and truth to a report and drawings."""
