"""Speed, side by side with a peer in the same run, as ratios: ``python -m benchmarks [NAME...]``.

Each module has ``run(folder)``, which yields a ``Pair`` for each measurement.
"""
