"""Programs that an engine starts in another environment: each is one file that imports nothing of vlmdet.

They have a folder of their own, since Python searches a program's folder first: beside the engines they would find
``engines/transformers.py`` in place of transformers.
"""
