"""What the worker costs beside its networks, and what a few new images of a large set cost."""
