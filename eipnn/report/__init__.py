"""`eipnn report`: tables and pictures of finished runs."""
