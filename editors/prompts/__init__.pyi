from .context import InContext as InContext
