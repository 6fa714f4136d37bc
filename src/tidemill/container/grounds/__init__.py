"""What roles stand on: where everything is kept, and how processes reach one another."""
