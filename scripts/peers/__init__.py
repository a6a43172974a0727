"""What people would use instead, doing the same work: see ``table.py``."""
