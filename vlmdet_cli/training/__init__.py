"""ms-swift from outside: its arguments, its processes, its logs."""
