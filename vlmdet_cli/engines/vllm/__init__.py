"""The engine ``vllm``: vLLM in processes of its own.

``worker.py`` is a program for vLLM's environment and imports nothing of vlmdet. Python searches a program's folder
first: no other module here may have the name of one that vLLM imports.
"""
