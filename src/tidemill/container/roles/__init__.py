"""What a process is: everything at once, or one role of a cluster."""
