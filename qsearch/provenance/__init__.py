"""What a session ran on: versions, machine, git state."""
