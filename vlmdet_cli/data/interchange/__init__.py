"""Truth and predictions in the files of other programs: a module a format, each with ``write(folder, exchange)``."""
