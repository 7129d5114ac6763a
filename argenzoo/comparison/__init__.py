"""Several models side by side: trained within one budget, measured by one protocol, in one report."""
