"""The stages: a project (or plain files) in, a frozen result out. They neither print nor know Typer."""
