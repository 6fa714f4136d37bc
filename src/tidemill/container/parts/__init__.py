"""What roles are made of; each may stand beside the others in one process."""
