"""What tools/plan.py prints."""
