"""Files that ms-swift imports by their path, inside its own process (``--external_plugins``); nobody else imports them.

swift puts this folder first on ``sys.path``: no module here may have the name of another.
"""
