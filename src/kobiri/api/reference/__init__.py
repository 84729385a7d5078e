"""The API's reference: OpenAPI document and pages, made by `python -m kobiri.api.reference` and kept in git.

What serves them (`api/docs.py`) reads the files and imports nothing of this.
"""
