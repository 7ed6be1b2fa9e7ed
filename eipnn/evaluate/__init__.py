"""`eipnn evaluate`: a potential against labels, and the spread of a committee against its errors."""
