"""How fast models sample and train on this machine, beside what the machine could do."""
