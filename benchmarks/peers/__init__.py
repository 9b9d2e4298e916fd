"""What others do, ready to be timed beside ours."""
