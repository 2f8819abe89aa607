from .draw import interactive as interactive
