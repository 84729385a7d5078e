"""The process that resumes what is due and keeps the house clean."""
