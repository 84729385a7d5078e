"""A stand-in for mobile-money providers: their wire protocols, their own books, and faults on demand."""
