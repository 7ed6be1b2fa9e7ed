"""`eipnn run`: the stages in order, each in its own process and folder."""
