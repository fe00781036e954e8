"""What every room stands on: boxes, records, the ledger, files, locks, processes."""
