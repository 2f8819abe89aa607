"""Linear modules of our own: products through oneDNN, and matrices that stay in four bits."""
