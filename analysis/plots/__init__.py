"""What the figures show and how they are drawn: data, for a paper (matplotlib), for the page (Plotly)."""
