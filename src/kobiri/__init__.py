"""A self-hosted, multi-tenant payment gateway for mobile money."""

__version__ = "0.1.0"
