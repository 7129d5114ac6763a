"""Pictures and labels: sets, crops, and the stream that training reads."""
