"""What db.bin is, and how its codes are searched."""

from sdc.retrieve.index.index import Index

__all__ = ["Index"]
