"""The authors' files: read safely, told apart, renamed, measured, and made into models."""
