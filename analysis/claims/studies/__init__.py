"""What each experiment asks: its claims, tables and figures, one file per experiment."""
