"""Whether a potential is safe to simulate with: figures of physics and dynamics, each good, fair or bad."""
