"""`python -m kobiri` is the `kobiri` command."""

if __name__ == "__main__":
    from kobiri.cli import main

    main()
